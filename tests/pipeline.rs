//! A model divided among processes: the examples that do it, on the real model, give the text of one process.
//!
//! Needs the model's path in CAPSULEGRAPH_TEST_MODEL, and in CAPSULEGRAPH_TEST_RAY_PYTHON a Python with `ray` and
//! `numpy`; `cargo xtask test` gets both and sets them.

// The compiler is called as Linux has it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up is a failed test

#[path = "support/compiler.rs"]
mod compiler;
#[path = "support/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::decoder::forward::Input;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::part::{Output as Gives, Part};
use capsulegraph::generate::session::{GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::pool::Gate;
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::{OpenOptions, Origin};

use compiler::Language;
use program::{Link, compile, root, shared_library};

const PROMPT: &str = "The three largest cities of Italy are";
const TOKENS: usize = 24;

/// The full file and its mini, in directories of their own.
struct Files {
    full: PathBuf,
    mini: PathBuf,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let source = std::env::var_os("CAPSULEGRAPH_TEST_MODEL").expect(
            "CAPSULEGRAPH_TEST_MODEL must name SmolLM2's .gguf; run the tests with: cargo xtask test",
        );
        let [full, mini] = ["full", "mini"].map(|kind| {
            let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pipeline.{kind}"));
            std::fs::create_dir_all(&place).unwrap();
            place.join("smollm2.cgraph")
        });
        convert(source.as_ref(), &full, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
        split(&full, &mini, &SplitOptions::default(), &mut |_, _| {}).unwrap();
        Files { full, mini }
    })
}

fn open(store: OpenOptions) -> Arc<Model> {
    let options = ModelOptions { store, ..ModelOptions::default() };
    Arc::new(Model::open(&Origin::Path(files().full.clone()), &options).unwrap())
}

/// Tokens and text of one process, greedy.
fn one_process() -> &'static (Vec<u32>, String) {
    static EXPECTED: OnceLock<(Vec<u32>, String)> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let model = open(OpenOptions::default());
        let prompt = model.tokenizer().unwrap().encode(PROMPT, true, false).unwrap();
        let mut session = Session::new(model, &SessionOptions::default()).unwrap();
        let options = GenerateOptions { max_tokens: TOKENS, ..GenerateOptions::default() };
        session.start(&prompt, &options).unwrap();
        let (mut ids, mut all) = (Vec::new(), String::new());
        while let Step::Token { id, text } = session.step(&Gate::open()).unwrap() {
            ids.push(id);
            all.push_str(&text);
        }
        assert!(ids.len() > 8 && !all.trim().is_empty(), "{ids:?} {all:?}");
        (ids, all)
    })
}

#[test]
fn two_and_three_parts_give_the_tokens_of_one_process() {
    let (expected, text) = one_process();
    let count = open(OpenOptions::default()).decoder().capsule_count();
    for cuts in
        [vec![0, count / 2, count], vec![0, 1, count - 1, count], vec![0, count / 3, count / 2, count]]
    {
        let part = |cut: &[usize]| {
            let model = open(OpenOptions { range: Some(cut[0]..cut[1]), ..OpenOptions::default() });
            assert!(Session::new(Arc::clone(&model), &SessionOptions::default()).is_err());
            Part::new(model, &SessionOptions::default()).unwrap()
        };
        let mut parts: Vec<Part> = cuts.windows(2).map(part).collect();
        let tokenizer = Arc::clone(parts[0].model());
        let tokenizer = tokenizer.tokenizer().unwrap();
        let mut ids = tokenizer.encode(PROMPT, true, false).unwrap();
        let prompt = ids.len();
        let mut passed = 0;
        while ids.len() < prompt + expected.len() {
            let (mut hidden, mut logits) = (Vec::new(), Vec::new());
            for part in &mut parts {
                let input =
                    if hidden.is_empty() { Input::Tokens(&ids[passed..]) } else { Input::Hidden(&hidden) };
                match part.eval(input, false, None).unwrap() {
                    Gives::Hidden(values) => hidden = values.to_vec(),
                    Gives::Logits(values) => logits = values.to_vec(),
                }
            }
            passed = ids.len();
            let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap();
            ids.push(best as u32);
        }
        assert_eq!(&ids[prompt..], &expected[..], "{cuts:?}");
        assert_eq!(&tokenizer.decode(&ids[prompt..], false), text, "{cuts:?}");
    }
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pipeline() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        compile(&root().join("examples/pipeline.c"), Language::C, Link::Shared, &[], "pipeline")
    })
}

/// `pipeline last` and the port that it listens on.
fn last(model: &Path) -> (Running, String) {
    let mut command = Command::new(pipeline());
    command.arg("last").arg(model).arg("0").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("port ").unwrap_or_else(|| panic!("it printed {line:?}")).to_owned();
    (process, port)
}

fn first(model: &Path, port: &str) -> Output {
    let mut command = Command::new(pipeline());
    command.arg("first").arg(model).args(["127.0.0.1", port, PROMPT, &TOKENS.to_string()]);
    command.output().unwrap()
}

/// How `pipeline last` ended, and what it complained of.
fn end(mut process: Running) -> (bool, String) {
    let status = process.0.wait().unwrap();
    let mut complaint = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    (status.success(), complaint)
}

#[test]
fn two_processes_give_the_text_of_one() {
    let (full, (_, text)) = (&files().full, one_process());
    let (process, port) = last(full);
    let output = first(full, &port);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{complaint}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{text}\n"));
    assert_eq!(end(process), (true, String::new()));
    // Now nobody listens there.
    let output = first(full, &port);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("start `pipeline last` first"), "{complaint}");
}

#[test]
fn a_strange_peer_is_refused() {
    const HELLO: u32 = 0x3047_5043;
    const ACTIVATIONS: u32 = 0x3147_5043;
    let model = open(OpenOptions::default());
    let width = model.decoder().params().embedding_length;
    let capsules = model.decoder().capsule_count() as u32;
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let hello = words(&[HELLO, 0, width, capsules]);
    let after_hello = |rest: &[u8]| [&hello, rest].concat();
    let not_finite = [f32::NAN.to_bits()].repeat(width as usize);
    for (bytes, wanted) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "unknown kind"),
        (hello[..7].to_vec(), "ends early"),
        (words(&[HELLO, 0, width + 1, capsules]), "another model"),
        (after_hello(&hello), "unknown kind"),
        (after_hello(&words(&[ACTIVATIONS, 0, width, 0])), "wrong size"),
        (after_hello(&words(&[ACTIVATIONS, 1, width - 1, 0])), "wrong size"),
        (after_hello(&words(&[ACTIVATIONS, u32::MAX, u32::MAX, 0])), "wrong size"),
        (after_hello(&words(&[ACTIVATIONS, 2, width, 0, 0, 0])), "ends early"),
        (after_hello(&words(&[&[ACTIVATIONS, 1, width, 0], &not_finite[..]].concat())), "no finite number"),
    ] {
        let (process, port) = last(&files().full);
        let mut peer = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        peer.write_all(&bytes).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let (well, complaint) = end(process);
        assert!(!well && complaint.contains(wanted), "{wanted}: {complaint}");
    }
}

/// Ray takes all processors: one at a time.
fn ray(parts: usize, rest: &[&str]) -> Output {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let python = std::env::var_os("CAPSULEGRAPH_TEST_RAY_PYTHON").expect(
        "CAPSULEGRAPH_TEST_RAY_PYTHON must name a Python with the packages ray and numpy; run the tests with: cargo \
         xtask test",
    );
    let mut command = Command::new(python);
    command.arg(root().join("examples/pipeline_ray.py")).arg(&files().mini).arg(PROMPT);
    command.arg("--full").arg(&files().full).arg("--library").arg(shared_library());
    command.args(["--parts", &parts.to_string(), "--tokens", &TOKENS.to_string()]).args(rest);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn ray_actors_give_the_text_of_one_process() {
    let (_, text) = one_process();
    for (parts, rest) in [(2, &[][..]), (3, &["--memory", "200000000", "--mode", "exact"])] {
        let output = ray(parts, rest);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{parts} parts: {complaint}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("{text}\n"),
            "{parts} parts: {complaint}"
        );
    }
    let output = ray(1000, &[]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("name a number from 1 to"), "{complaint}");
}
