//! The real program where something is too much, forbidden or not to be had: numbers, processors, instruction sets,
//! standard error.
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/built.rs"]
mod built;
#[path = "support/cgraph.rs"]
mod cgraph;
mod support;

use cgraph::Place;

#[test]
fn wrong_numbers_are_named_with_what_is_possible() {
    let place = Place::with_model();
    let threads = "it must be a whole number from 0 to 1024";
    let repeats = "it must be a whole number from 1 to 1000000";
    for (args, why) in [
        (&["--threads", "abc"][..], threads),
        (&["--threads", "-1"], threads),
        (&["--threads", "100000"], threads),
        (&["--repeat", "0"], repeats),
        (&["--repeat", "-1"], repeats),
        (&["--repeat", "100000000000"], repeats),
        (&["--repeat", "18446744073709551615"], repeats),
        (&["-p", "16,x"], "it must be a whole number"),
        (&["-p", "-1"], "it must be a whole number"),
        (&["-n", "-1,4"], "it must be a whole number"),
        (&["--depth", "4k"], "it must be a whole number"),
        (&["--pass", "99999999999999999999999"], "the number is too large"),
        (&["--batch", "-1"], "it must be a whole number"),
        (&["--ctx", "-1"], "it must be a whole number from 1"),
        (&["--processors", "-1"], "no list of processors such as 0,2-3"),
        (&["--processors", "0,3-1"], "the range 3-1 runs backwards"),
        (&["--processors", "0-5000"], "at most 1024 processors"),
    ] {
        let ran = place.cgraph(&[&["bench", "m.cgraph"][..], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(args[0]) && ran.err.contains(why), "{args:?}: {}", ran.err);
    }
    for number in ["-1", "many"] {
        let ran = place.cgraph(&["run", "m.cgraph", "-p", "x", "-n", number]);
        assert!(ran.code == Some(2) && ran.err.contains("it must be a whole number"), "{}", ran.err);
    }
}

#[test]
fn a_pass_of_too_many_logits_is_refused_before_any_test() {
    let place = Place::with_model();
    let ran = place.cgraph(&["bench", "m.cgraph", "-p", "8", "-n", "0", "--pass", "1,4000000"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("the logits of 4000000 tokens"), "{}", ran.err);
}

#[test]
fn a_context_beyond_the_trained_one_is_told_of_once() {
    let place = Place::with_model();
    let run = ["run", "m.cgraph", "-p", "the", "-n", "2"];
    let bench = ["bench", "m.cgraph", "-p", "4", "-n", "2", "--repeat", "1"];
    for command in [&run[..], &bench] {
        let told = |more: &[&str]| {
            let ran = place.cgraph(&[command, more].concat());
            assert_eq!(ran.code, Some(0), "{command:?} {more:?}: {}", ran.err);
            ran.err
        };
        let note = told(&["--ctx", "300"]);
        assert!(note.lines().count() == 1 && note.starts_with("cgraph: note: "), "{note}");
        assert!(note.contains("300") && note.contains("256"), "{note}");
        for none in [&["--ctx", "256"][..], &[], &["-q", "--ctx", "300"]] {
            assert_eq!(told(none), "", "{command:?} {none:?}");
        }
    }
}

#[test]
fn names_are_taken_in_any_case() {
    let place = Place::with_model();
    let report = place.json(&["run", "m.cgraph", "-p", "the", "-n", "2", "--json", "--kv-type", "Q8_0"]);
    assert_eq!(report["memory"]["kv_type"], "q8_0");
    let refused = place.cgraph(&["run", "m.cgraph", "-p", "the", "--priority", "High"]);
    assert!(refused.code == Some(2) && refused.err.contains("inherited, low, lowest"), "{}", refused.err);
    if cfg!(target_os = "linux") {
        place.ok(&["run", "m.cgraph", "-p", "the", "-n", "2", "--priority", "LOW"]);
    }
}

#[test]
fn the_instruction_set_is_one_that_the_processor_has() {
    let place = Place::with_model();
    let run = |isa: &str| {
        let mut command = place.command(&["run", "m.cgraph", "-p", "the", "-n", "2"]);
        command.env("CAPSULEGRAPH_ISA", isa).output().unwrap()
    };
    let (unset, scalar) = (run(""), run("SCALAR"));
    assert!(unset.status.success() && scalar.status.success());
    assert_eq!(unset.stdout, scalar.stdout);
    for isa in ["sse", if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" }] {
        let refused = run(isa);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let named = format!("cgraph: error: CAPSULEGRAPH_ISA={isa}: this processor has scalar");
        assert!(message.starts_with(&named), "{message}");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::cgraph::Place;

    #[test]
    fn processors_that_are_forbidden_are_refused_whoever_computes() {
        let place = Place::with_model();
        for (list, why) in [
            ("99999", "processors: processor 99999 is not allowed by the system; choose from "),
            ("0,99999", "processors: processor 99999 is not allowed by the system; choose from "),
            ("0,1,0", "processors: processor 0 is named twice"),
        ] {
            for threads in ["0", "1", "2"] {
                let args = ["run", "m.cgraph", "-p", "x", "--processors", list, "--threads", threads];
                let ran = place.cgraph(&args);
                assert!(ran.code == Some(1) && ran.err.contains(why), "{args:?}: {}", ran.err);
            }
        }
    }

    /// The line of this name in a thread's status.
    fn status(path: &str, name: &str) -> String {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    #[test]
    fn the_main_thread_runs_where_and_as_it_was_told() {
        let place = Place::with_model();
        let allowed = status("/proc/self/status", "Cpus_allowed_list");
        let last = allowed.rsplit([',', '-']).next().unwrap();
        // A conversation waits for its first line with the model open.
        let args = ["chat", "m.cgraph", "--processors", last, "--priority", "lowest"];
        let mut child = place.command(&args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let of = |file: &str| format!("/proc/{0}/task/{0}/{file}", child.id());
        let nice = || {
            let stat = std::fs::read_to_string(of("stat")).unwrap_or_default();
            stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(16)?.parse::<i32>().ok())
        };
        let placed = || status(&of("status"), "Cpus_allowed_list") == last && nice() == Some(19);
        let begun = Instant::now();
        while !placed() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(placed(), "{} of {allowed}, nice {:?}", status(&of("status"), "Cpus_allowed_list"), nice());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_standard_error_that_cannot_be_written_changes_nothing() {
        let place = Place::with_model();
        let run = ["run", "m.cgraph", "-p", "the", "-n", "4"];
        let wanted = place.ok(&run);
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let closed = || {
            let mut other =
                place.command(&["--version"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let pipe = other.stdin.take().unwrap();
            other.wait().unwrap();
            pipe
        };
        let kinds: [&dyn Fn() -> Stdio; 2] = [&|| full().into(), &|| closed().into()];
        for stderr in kinds {
            let ran = place.command(&[&["-v"][..], &run].concat()).stderr(stderr()).output().unwrap();
            assert_eq!((ran.status.code(), ran.stdout), (Some(0), wanted.clone().into_bytes()));
            let failed = place.command(&["run", "none.cgraph", "-p", "x"]).stderr(stderr()).output().unwrap();
            assert_eq!(failed.status.code(), Some(1));
            let misused = place.command(&["dance"]).stderr(stderr()).output().unwrap();
            assert_eq!(misused.status.code(), Some(2));
        }
    }
}
