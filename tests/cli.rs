//! The real program on tiny models: every command's main path, exit codes, refusals, and nothing half-written.
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/built.rs"]
mod built;
#[path = "support/cgraph.rs"]
mod cgraph;
mod support;

use cgraph::Place;
use serde_json::Value;
use support::{SPECIALS, TinyModel};

#[test]
fn convert_and_split_write_what_they_say() {
    let place = Place::new();
    TinyModel::default().write(&place.path("m.gguf"));
    let out = place.ok(&["convert", "m.gguf"]);
    assert!(out.contains("m.cgraph") && out.contains("m.mini.cgraph"), "{out}");
    assert_eq!(place.files(), ["m.cgraph", "m.gguf", "m.mini.cgraph"]);

    let json =
        place.json(&["convert", "m.gguf", "-o", "n.cgraph", "--no-mini", "--planes", "divided", "--json"]);
    assert_eq!(json["full"]["path"], "n.cgraph");
    assert_eq!(json["full"]["bytes"], place.bytes("n.cgraph").len());
    assert!(json.get("mini").is_none());
    assert_eq!(json["full"]["divided"], 15, "seven matrices a block and the embedding");
    assert_eq!(place.bytes("m.cgraph"), place.bytes("n.cgraph"), "conversion is deterministic");

    assert_eq!(place.ok(&["-q", "split", "n.cgraph", "-o", "x.mini.cgraph"]), "");
    let json = place.json(&["split", "n.cgraph", "--light", "Q4_0", "--json"]);
    assert_eq!(json["path"], "n.mini.cgraph");
    assert_eq!(json["plan"]["light"], "q4_0");
    assert!(json["expected_agreement"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)));
    assert_eq!(json["plan"]["capsules"].as_array().map(Vec::len), Some(6));
    TinyModel::default().write(&place.path("modèle ü.gguf"));
    place.ok(&["convert", "modèle ü.gguf", "--size", "1.5MB"]);
    place.ok(&["run", "modèle ü.mini.cgraph", "-p", "é", "-n", "2", "--mode", "exact"]);
    let ran = place.cgraph(&["run", "modèle ü.gguf", "-p", "x"]);
    // As the system's own shell takes it.
    let quote = if cfg!(windows) { '"' } else { '\'' };
    let told = format!("cgraph convert {quote}modèle ü.gguf{quote} -o {quote}modèle ü.cgraph{quote}");
    assert!(ran.err.contains(&told), "{}", ran.err);

    let listed = place.ok(&["-v", "split", "n.cgraph", "--calibrate", "Another text."]);
    assert!(listed.contains("block.1.ffn"), "{listed}");
}

#[test]
fn a_model_of_which_nothing_can_be_divided_is_told_of() {
    let place = Place::new();
    TinyModel { encoding: "f16", embedding: "f16", ..TinyModel::default() }.write(&place.path("m.gguf"));
    let convert = |more: &[&str]| {
        let ran = place.cgraph(&[&["convert", "m.gguf", "--no-mini"][..], more].concat());
        assert_eq!(ran.code, Some(0), "{more:?}: {}", ran.err);
        ran
    };
    for more in [&["--planes", "divided"][..], &["--planes", "divided", "--json"]] {
        let told = convert(more).err;
        assert!(told.starts_with("cgraph: note: no weight is divided") && told.contains("q8_0"), "{told}");
    }
    let json: Value = serde_json::from_str(&convert(&["--planes", "divided", "--json"]).out).unwrap();
    assert_eq!(json["full"]["divided"], 0);
    let divided = place.bytes("m.cgraph");
    for quiet in [&["-q", "--planes", "divided"][..], &["--planes", "whole"], &["--planes", "auto"]] {
        assert_eq!(convert(quiet).err, "", "{quiet:?}");
        assert!(place.bytes("m.cgraph") == divided, "{quiet:?}");
    }
}

#[test]
fn wrong_usage_is_2_failure_is_1_in_one_line() {
    let place = Place::with_model();
    for args in [
        &["run"][..],
        &["dance"],
        &["run", "m.cgraph", "-p", "x", "--memory", "much"],
        &["run", "m.cgraph", "-p", "x", "--mode", "slow"],
        &["run", "m.cgraph", "-p", "x", "--prompt-file", "y"],
        &["split", "m.cgraph", "--light", "q9_z"],
        &["split", "m.cgraph", "--size", "0"],
        &["eval", "m.cgraph"],
        &["tokenize", "m.cgraph", "--ids", "1,x"],
        &["plan", "m.cgraph", "--memory", "1GB", "--disk", "0"],
        &["-q", "-v", "inspect", "m.cgraph"],
        &["run", "m.cgraph", "-p", "x", "--threads", "100000"],
    ] {
        let ran = place.cgraph(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?}: {}", ran.err);
    }
    std::fs::write(place.path("m.bin"), "PK\x03\x04 something else").unwrap();
    for (args, named) in [
        (&["run", "none.cgraph", "-p", "x"][..], "none.cgraph"),
        (
            &["convert", "m.bin"],
            "neither a GGUF model nor an ONNX model: its first bytes are [50, 4b, 03, 04]",
        ),
        (
            &["run", "m.cgraph", "--input", "x=x.npy", "--prepack", "on"],
            "no use for --input (it takes a prompt: -p TEXT)",
        ),
        (&["bench", "m.cgraph", "--dim", "n=1"], "no use for --dim"),
        (&["run", "m.gguf", "-p", "x"], "cgraph convert m.gguf -o m.cgraph"),
        (&["split", "m.gguf"], "cgraph convert m.gguf"),
        (&["run", "m.cgraph", "-p", "x", "--memory", "1kB"], "the smallest possible one is"),
        (&["plan", "m.cgraph"], "--memory"),
        (&["run", "m.cgraph", "-p", "x", "--temperature=-1"], "temperature"),
        (&["run", "m.cgraph", "-p", ""], "no tokens"),
        (&["run", "m.cgraph", "--mode", "fast", "-p", "x"], "full file"),
        (&["run", "m.cgraph", "-p", "x", "--report", "nowhere/r.json"], "nowhere"),
        (&["fetch", "m.cgraph", "block.9.attn"], "block.9.attn"),
        (&["convert", "m.cgraph", "-o", "y.cgraph"], "GGUF"),
        (&["convert", "m.gguf", "-o", "m.gguf"], "m.gguf"),
        (&["eval", "m.cgraph", "--tokens", "m.gguf"], "UTF-8"),
        (&["split", "m.cgraph", "--size", "1kB"], "the smallest is"),
    ] {
        let before = place.files();
        let ran = place.cgraph(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{args:?}: {}", ran.err);
        assert!(ran.err.starts_with("cgraph: error: ") && ran.err.lines().count() == 1, "{}", ran.err);
        assert!(ran.err.contains(named), "{args:?}: {}", ran.err);
        assert_eq!(place.files(), before, "{args:?} left files behind");
    }
    for command in
        ["convert", "split", "run", "chat", "eval", "tokenize", "fetch", "inspect", "verify", "bench"]
    {
        assert!(place.ok(&[command, "--help"]).contains("Examples:"), "{command}");
    }
}

#[test]
fn damaged_sources_leave_nothing_behind() {
    let place = Place::new();
    let whole = TinyModel::default().gguf();
    for len in [3, 40, 2000, whole.len() / 2, whole.len() - 40] {
        std::fs::write(place.path("cut.gguf"), &whole[..len]).unwrap();
        let ran = place.cgraph(&["convert", "cut.gguf"]);
        assert_eq!(ran.code, Some(1), "{len} bytes: {}", ran.out);
        assert_eq!(place.files(), ["cut.gguf"], "{len} bytes");
    }
    std::fs::write(place.path("target"), "kept").unwrap();
    place.cgraph(&["convert", "cut.gguf", "-o", "target"]);
    assert_eq!(place.bytes("target"), b"kept");
}

#[test]
fn models_of_every_shape_convert_and_run() {
    for model in [
        TinyModel { version: 2, tied: false, biases: true, ..TinyModel::default() },
        TinyModel { rope_factors: true, encoding: "f16", embedding: "f32", ..TinyModel::default() },
        TinyModel { width: 256, ffn: 256, heads: 8, head_dim: 32, encoding: "q4_k", ..TinyModel::default() },
        TinyModel {
            width: 256,
            ffn: 256,
            heads: 8,
            head_dim: 32,
            encoding: "iq2_xs",
            ..TinyModel::default()
        },
    ] {
        let place = Place::new();
        model.write(&place.path("m.gguf"));
        place.ok(&["convert", "m.gguf"]);
        for mode in ["exact", "fast"] {
            let report =
                place.json(&["run", "m.mini.cgraph", "--mode", mode, "-p", "the end", "-n", "4", "--json"]);
            assert_eq!(report["mode"], mode, "{model:?}");
            assert!(report["generated_tokens"].as_u64() > Some(0), "{model:?}");
        }
        assert!(place.ok(&["verify", "m.mini.cgraph", "--deep"]).contains("every checksum holds"));
    }
}

#[test]
fn run_streams_the_same_text_for_the_same_seed() {
    let place = Place::with_model();
    let run = |seed: &str| {
        let sampling = ["--temperature", "1.5", "--top-p", "0.95", "--seed", seed];
        place.ok(&[&["run", "m.cgraph", "-p", "and the word", "-n", "24"], &sampling[..]].concat())
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));

    let greedy = place.ok(&["run", "m.cgraph", "-p", "and the word", "-n", "12"]);
    std::fs::write(place.path("prompt.txt"), "and the word\n").unwrap();
    assert_eq!(place.ok(&["run", "m.cgraph", "--prompt-file", "prompt.txt", "-n", "12"]), greedy);
    // As editors on Windows save it.
    std::fs::write(place.path("prompt.txt"), "\u{feff}and the word\r\n").unwrap();
    assert_eq!(place.ok(&["run", "m.cgraph", "--prompt-file", "prompt.txt", "-n", "12"]), greedy);
    let fed = place.fed(&["run", "m.cgraph", "-n", "12", "--report", "r.json"], "and the word\n");
    assert_eq!((fed.code, &fed.out), (Some(0), &greedy));

    let report: Value = serde_json::from_slice(&place.bytes("r.json")).unwrap();
    let text = report["text"].as_str().unwrap();
    assert_eq!(greedy.strip_suffix('\n').unwrap_or(&greedy), text.strip_suffix('\n').unwrap_or(text));
    for (pointer, wanted) in [
        ("/schema", Value::from("capsulegraph.report/1")),
        ("/command", "run".into()),
        ("/version", env!("CARGO_PKG_VERSION").into()),
        ("/model/name", "Tiny".into()),
        ("/model/arch", "llama".into()),
        ("/model/file", "m.cgraph".into()),
        ("/model/full_bytes", place.bytes("m.cgraph").len().into()),
        ("/mode", "exact".into()),
        ("/capsules/total", 6.into()),
        ("/capsules/pinned", 6.into()),
        ("/generated_tokens", 12.into()),
        ("/finish_reason", "length".into()),
    ] {
        assert_eq!(report.pointer(pointer), Some(&wanted), "{pointer}");
    }
    assert_eq!(report["token_ids"].as_array().map(Vec::len), Some(12));
    for number in ["open_ms", "first_token_ms", "prefill_tokens_per_s", "decode_tokens_per_s"] {
        assert!(report[number].as_f64() > Some(0.0), "{number}");
    }
    let memory = |name: &str| report["memory"][name].as_u64();
    assert!(memory("peak_bytes") > memory("buffers_bytes") && memory("kv_bytes") > Some(0));
    assert!(memory("buffers_bytes") > Some(0) && memory("pinned_bytes") > Some(0));
    if cfg!(target_os = "linux") {
        assert!(memory("peak_rss_bytes") >= memory("peak_anonymous_bytes"));
        assert!(memory("peak_anonymous_bytes") > Some(0));
    }
    assert!(report.get("perplexity").is_none() && report["memory"].get("budget_bytes").is_none());
    assert_eq!(report["memory"]["kv_type"], "f16");
}

#[test]
fn every_computing_command_takes_the_type_of_the_cache() {
    let place = Place::with_model();
    std::fs::write(place.path("t.txt"), "the world is the stone and the water in the other world").unwrap();
    for command in [
        &["run", "m.cgraph", "-p", "the", "-n", "4", "--json"][..],
        &["eval", "m.cgraph", "--text", "t.txt", "--json"],
        &["bench", "m.cgraph", "-p", "4", "-n", "2", "--repeat", "1", "--json"],
    ] {
        let of = |kind: &str| place.json(&[command, &["--kv-type", kind]].concat());
        let (plain, small) = (of("f16"), of("q8_0"));
        assert_eq!(
            (&plain["memory"]["kv_type"], &small["memory"]["kv_type"]),
            (&"f16".into(), &"q8_0".into())
        );
        let bytes = |report: &Value| report["memory"]["kv_bytes"].as_u64().unwrap();
        // Codes of one byte in place of two, and two bytes of scale for 32 of them or for a shorter last block.
        let (plain, small) = (bytes(&plain), bytes(&small));
        assert!(small * 2 > plain && small < plain, "{command:?}: {small} of {plain}");
        let refused = place.cgraph(&[command, &["--kv-type", "q4_0"]].concat());
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains("f16, q8_0"), "{}", refused.err);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn positions_that_are_never_reached_cost_no_memory() {
    let place = Place::with_model();
    for kind in ["f16", "q8_0"] {
        let args =
            ["run", "m.cgraph", "-p", "the", "-n", "4", "--json", "--ctx", "4000000", "--kv-type", kind];
        let memory = &place.json(&args)["memory"];
        let (kv, held) = (memory["kv_bytes"].as_u64(), memory["peak_anonymous_bytes"].as_u64());
        assert!(kv > Some(400 << 20) && held < Some(64 << 20), "{kind}: {held:?} of {kv:?}");
    }
}

#[test]
fn stop_strings_and_chat_templates_reach_the_model() {
    let place = Place::with_model();
    let report = place.json(&["run", "m.cgraph", "-p", "the", "-n", "30", "--json"]);
    let text = report["text"].as_str().unwrap();
    let stop: String = text.chars().skip(text.chars().count() / 2).take(1).collect();
    let stopped = place.json(&[
        "run",
        "m.cgraph",
        "-p",
        "the",
        "-n",
        "30",
        "--json",
        "--stop",
        "\u{1}\u{1}",
        "--stop",
        &stop,
    ]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"].as_str(), text.split(&stop).next());

    let by_hand =
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    let plain = place.ok(&["run", "m.cgraph", "-p", by_hand, "-n", "8"]);
    assert_eq!(place.ok(&["run", "m.cgraph", "--chat", "-p", "hello", "-n", "8"]), plain);
    let told = by_hand.replace("Be kind.", "Be brief.");
    let plain = place.ok(&["run", "m.cgraph", "-p", &told, "-n", "8"]);
    assert_eq!(place.ok(&["run", "m.cgraph", "--system", "Be brief.", "-p", "hello", "-n", "8"]), plain);

    let first = place.ok(&["run", "m.cgraph", "--chat", "-p", "one", "-n", "6"]);
    let talk = place.fed(&["chat", "m.cgraph", "-n", "6"], "one\n\n/clear\none\n/exit\nignored\n");
    assert_eq!((talk.code, talk.out), (Some(0), first.repeat(2)), "{}", talk.err);

    TinyModel { tokenizer: false, ..TinyModel::default() }.write(&place.path("mute.gguf"));
    place.ok(&["convert", "mute.gguf", "--no-mini"]);
    for args in [
        &["run", "mute.cgraph", "-p", "x"][..],
        &["chat", "mute.cgraph"],
        &["tokenize", "mute.gguf", "-p", "x"],
    ] {
        let ran = place.cgraph(args);
        assert!(ran.code == Some(1) && ran.err.contains("has no"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn tokenize_goes_both_ways_without_tensors_too() {
    let place = Place::with_model();
    TinyModel { tensors: false, add_bos: true, ..TinyModel::default() }.write(&place.path("vocab.gguf"));
    let text = "the wörld and  all of it\n";
    for file in ["m.cgraph", "m.mini.cgraph", "m.gguf", "vocab.gguf"] {
        let ids = place.ok(&["tokenize", file, "-p", text]);
        serde_json::from_str::<Vec<u32>>(&ids).expect("a JSON array");
        assert_eq!(place.ok(&["tokenize", file, "--ids", ids.trim()]), format!("{text}\n"), "{file}");
        let parsed = place.json(&["tokenize", file, "-p", SPECIALS[1], "--special"]);
        assert_eq!(parsed, serde_json::json!([1]));
        assert_ne!(place.json(&["tokenize", file, "-p", SPECIALS[1]]), parsed);
        assert_eq!(place.ok(&["tokenize", file, "--ids", "1"]), "\n");
        assert_eq!(place.json(&["tokenize", file, "--ids", "1", "--special", "--json"]), SPECIALS[1]);
        let ran = place.cgraph(&["tokenize", file, "--ids", "100000"]);
        assert!(ran.code == Some(1) && ran.err.contains("100000"), "{}", ran.err);
    }
    let bare = place.json(&["tokenize", "vocab.gguf", "-p", "a"]);
    let marked = place.json(&["tokenize", "vocab.gguf", "-p", "a", "--bos"]);
    assert_eq!((&marked[0], &marked[1]), (&1.into(), &bare[0]));
}

#[test]
fn inspect_says_what_is_in_a_file() {
    let place = Place::with_model();
    let full = place.json(&["inspect", "m.cgraph", "--json"]);
    let mini = place.json(&["inspect", "m.mini.cgraph", "--json", "--capsules"]);
    assert_eq!((&full["kind"], &mini["kind"]), (&"full".into(), &"mini".into()));
    assert_eq!(full["capsule_count"], 6);
    assert!(full.get("capsules").is_none() && full.get("residences").is_none());
    assert_eq!(mini["full"]["digest"], full["digest"]);
    assert_eq!(mini["capsules"][1]["id"], "block.0.attn");
    assert_eq!(mini["lineage"].as_array().map(Vec::len), Some(2));
    assert_eq!(full["model"]["decoder"]["embedding_length"], 64);
    assert_eq!(full["encodings"]["q4_1"]["count"], 14);
    assert_eq!(full["divisions"]["3+1"]["count"], 14);
    let agreement = mini["agreement"].as_f64().expect("it was measured");
    assert!(full.get("agreement").is_none() && (0.0..=1.0).contains(&agreement), "{mini}");
    let gguf = place.json(&["inspect", "m.gguf", "--json"]);
    assert_eq!((&gguf["kind"], &gguf["tensor_count"]), (&"gguf".into(), &20.into()));
    assert_eq!(gguf["vocab_tokens"], TinyModel::default().vocab_size());
    assert_eq!(gguf["metadata"]["llama.block_count"], 2);
    let yaml = place.ok(&["inspect", "m.mini.cgraph", "--yaml"]);
    assert!(yaml.contains("kind: mini\n") && yaml.contains("capsule_count: 6\n"), "{yaml}");
    let text = place.ok(&["inspect", "m.mini.cgraph", "--capsules"]);
    assert!(text.contains("blk.1.ffn_down.weight") && text.contains("Tiny (llama)"), "{text}");
    assert!(place.ok(&["inspect", "m.gguf", "--capsules"]).contains("blk.1.ffn_down.weight"));
}

#[test]
fn bench_measures_every_repeat() {
    let place = Place::with_model();
    let report = place.json(&[
        "bench",
        "m.cgraph",
        "-p",
        "16",
        "-n",
        "4",
        "--repeat",
        "3",
        "--json",
        "--threads",
        "1",
    ]);
    assert_eq!((&report["command"], &report["threads"]), (&"bench".into(), &1.into()));
    for (row, test) in [(0, "pp16"), (1, "tg4")] {
        let row = &report["tests"][row];
        assert_eq!(row["test"], test);
        assert_eq!(row["repeats"].as_array().map(Vec::len), Some(3));
        assert!(row["tokens_per_s"].as_f64() > Some(0.0) && row["tokens_per_s_sd"].as_f64() >= Some(0.0));
    }
    assert!(report["first_token_ms"].as_f64() > Some(0.0));
    let memory = |name: &str| report["memory"][name].as_u64();
    assert!(memory("start_anonymous_bytes") <= memory("peak_anonymous_bytes"));
    let text = place.ok(&["bench", "m.mini.cgraph", "--mode", "fast", "-p", "0", "-n", "2", "--repeat", "1"]);
    assert!(text.contains("tg2") && !text.contains("pp"), "{text}");
    assert!(!text.contains("first token"), "{text}");
    let text = place.ok(&["bench", "m.cgraph", "-p", "0,8", "-n", "0", "--repeat", "1"]);
    let times = text.lines().next_back().unwrap();
    assert!(times.contains(" ms to open, then ") && times.ends_with("first token (prompt of 8)"), "{text}");
    assert_eq!(place.cgraph(&["bench", "m.cgraph", "-p", "0", "-n", "0"]).code, Some(1));
}

#[test]
fn bench_tests_every_length_at_every_depth() {
    let place = Place::with_model();
    let lists = ["-p", "0,8", "-n", "2,3", "--pass", "1,5", "--depth", "12,0"];
    let report = place.json(&[&["bench", "m.cgraph", "--repeat", "1", "--json"], &lists[..]].concat());
    let row = |row: &Value| (row["test"].as_str().unwrap().to_owned(), row["depth"].as_u64());
    let rows: Vec<_> = report["tests"].as_array().unwrap().iter().map(row).collect();
    let names = ["pp8", "tg2", "tg3", "pass1", "pass5"];
    let deep = names.map(|name| (format!("{name} @ d12"), Some(12)));
    assert_eq!(rows, [deep, names.map(|name| (name.to_owned(), Some(0)))].concat());
    let short = place.cgraph(&["bench", "m.cgraph", "-p", "64", "--ctx", "32"]);
    assert_eq!(short.code, Some(1));
    assert!(short.err.contains("need a context of 128"), "{}", short.err);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::with_model();
    let mut child = place
        .command(&["inspect", "m.mini.cgraph", "--capsules"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), done.stderr.as_slice()), (Some(0), &b""[..]));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_and_leaves_nothing() {
    let place = Place::with_model();
    let ids: Vec<u32> = (0..200_000).map(|i| i % 250).collect();
    std::fs::write(place.path("ids.json"), serde_json::to_vec(&ids).unwrap()).unwrap();
    let before = place.files();
    let args =
        ["eval", "m.cgraph", "--tokens", "ids.json", "--logits", "out.npy", "--ctx", "64", "--batch", "1"];
    let mut child = place.command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = std::time::Instant::now();
    while place.files() == before && begun.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(child.try_wait().unwrap().is_none(), "it was done before it could be interrupted");
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130));
    assert_eq!(place.files(), before);
}
