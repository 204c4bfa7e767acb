//! A model inside a memory budget: the same bits as without one, whatever it is, and never more memory than it says.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use capsulegraph::Error;
use capsulegraph::container::disk::{FileSource, ReadAt};
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::decoder::forward::Input;
use capsulegraph::generate::SamplingOptions;
use capsulegraph::generate::eval::evaluate;
use capsulegraph::generate::group::Group;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::part::{Output, Part};
use capsulegraph::generate::session::{GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::pool::{CancelToken, Gate, ThreadOptions};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::budget::Budget;
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::{Mode, OpenOptions, Origin};
use support::{Random, TinyModel};

/// About 8 MB of weights in q8_0, cut into some dozens of segments.
fn shape(encoding: &'static str, tied: bool) -> TinyModel {
    TinyModel {
        width: 512,
        ffn: 1024,
        blocks: 4,
        heads: 8,
        kv_heads: 2,
        head_dim: 64,
        biases: true,
        tied,
        encoding,
        embedding: "q8_0",
        ..TinyModel::default()
    }
}

const CONTEXT: usize = 64;

struct Converted {
    dir: tempfile::TempDir,
    vocab: u32,
}

impl Converted {
    fn new(model: &TinyModel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        model.write(&dir.path().join("m.gguf"));
        let this = Self { dir, vocab: model.vocab_size() as u32 };
        convert(&this.path("m.gguf"), &this.path("m.cgraph"), &ConvertOptions::default(), &mut |_, _| {})
            .unwrap();
        this
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn tokens(&self, n: usize) -> Vec<u32> {
        let mut random = Random(7);
        (0..n).map(|_| random.bits() as u32 % self.vocab).collect()
    }
}

fn open(path: &Path, budget: Option<&Arc<Budget>>, threads: usize) -> Result<Arc<Model>, Error> {
    let store = OpenOptions { mode: Mode::Exact, budget: budget.cloned(), ..OpenOptions::default() };
    let options = ModelOptions {
        store,
        threads: ThreadOptions { count: threads, ..ThreadOptions::default() },
        session: session_options(1),
    };
    Model::open(&Origin::Path(path.to_owned()), &options).map(Arc::new)
}

fn session_options(batch: usize) -> SessionOptions {
    SessionOptions { context: CONTEXT, batch, ..SessionOptions::default() }
}

fn session(model: &Arc<Model>, batch: usize) -> Result<Session, Error> {
    Session::new(Arc::clone(model), &session_options(batch))
}

/// Bits of the logits of all tokens, and after each of some more that follow one by one.
fn bits(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    session.truncate(0);
    let (prompt, rest) = tokens.split_at(tokens.len() - 3);
    let mut bits: Vec<u32> = session.eval(prompt, true, None).unwrap().iter().map(|x| x.to_bits()).collect();
    for token in rest {
        bits.extend(session.eval(&[*token], false, None).unwrap().iter().map(|x| x.to_bits()));
    }
    bits
}

/// The smallest budget that a refusal names.
fn smallest(refused: Error) -> u64 {
    let Error::Limit(message) = refused else { panic!("{refused}") };
    let (_, rest) = message.rsplit_once("smallest possible one is ").unwrap_or_else(|| panic!("{message}"));
    let number = rest.split(' ').next().unwrap_or_default();
    number.parse().unwrap_or_else(|_| panic!("{message}"))
}

/// The smallest budget in which a session of this model can work: opening names it at once.
fn smallest_budget(path: &Path) -> u64 {
    let refused = open(path, Some(&Budget::new(1)), 1).map(drop);
    let named = smallest(refused.unwrap_err());
    let budget = Budget::new(named);
    open(path, Some(&budget), 1).and_then(|model| session(&model, 1).map(drop)).unwrap();
    named
}

#[test]
fn every_budget_gives_the_same_bits() {
    for (encoding, tied) in [("q8_0", true), ("q4_k", false), ("f16", true)] {
        let files = Converted::new(&shape(encoding, tied));
        let (path, tokens) = (files.path("m.cgraph"), files.tokens(40));
        let expected = bits(&mut session(&open(&path, None, 2).unwrap(), 0).unwrap(), &tokens);
        let (least, whole) = (smallest_budget(&path), std::fs::metadata(&path).unwrap().len());
        for total in [least, least + whole / 4, least + whole / 2, least + whole, 2 * (least + whole)] {
            for threads in [1, 2] {
                let budget = Budget::new(total);
                let model = open(&path, Some(&budget), threads).unwrap();
                let mut session = session(&model, if total == least { 1 } else { 0 }).unwrap();
                // A small budget has no room for the logits of many tokens at once.
                if total > least {
                    assert!(
                        bits(&mut session, &tokens) == expected,
                        "{encoding}, {total} bytes, {threads} threads"
                    );
                }
                let last = session.logits().len();
                session.truncate(0);
                let logits = session.eval(&tokens, false, None).unwrap();
                let logits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
                assert!(
                    logits == expected[expected.len() - files.vocab as usize..],
                    "{encoding}, {total}, {last}"
                );
                let memory = model.store().weight_memory().unwrap();
                assert_eq!(memory.budget, total);
                assert!(memory.peak + budget.claimed() <= total, "{memory:?} and {}", budget.claimed());
                if total == 2 * (least + whole) {
                    assert_eq!((memory.peak, memory.streamed), (0, 0), "the map serves");
                } else {
                    assert!(memory.streamed > 0);
                }
            }
        }
    }
}

#[test]
fn a_token_reads_what_is_not_pinned_and_no_more() {
    let files = Converted::new(&shape("q8_0", false));
    let path = files.path("m.cgraph");
    let whole = std::fs::metadata(&path).unwrap().len();
    for share in [20, 50, 80] {
        let budget = Budget::new(smallest_budget(&path) + whole * share / 100);
        let model = open(&path, Some(&budget), 2).unwrap();
        let mut session = session(&model, 1).unwrap();
        let streamed = || model.store().weight_memory().unwrap().streamed;
        session.eval(&files.tokens(2), false, None).unwrap();
        let before = streamed();
        session.eval(&files.tokens(20), false, None).unwrap();
        let each = (streamed() - before) / 20;
        let pinned = model.store().weight_memory().unwrap().pinned;
        let capsules = &model.store().manifest().capsules;
        let weights: u64 = capsules.iter().filter(|c| c.id != "embed").map(|c| c.stored_bytes()).sum();
        assert!(pinned > weights * (share - 15) / 100, "{share}%: {pinned} of {weights}");
        // Reads are in blocks of 4096 bytes, which weighs more in so small a model.
        assert!(
            each <= (weights - pinned) * 115 / 100,
            "{share}%: {each} where {} would do",
            weights - pinned
        );
    }
}

#[test]
fn a_budget_that_cannot_work_names_the_smallest_that_can() {
    let files = Converted::new(&shape("q4_k", true));
    let path = files.path("m.cgraph");
    let least = smallest_budget(&path);
    let refused =
        open(&path, Some(&Budget::new(least - 1)), 1).and_then(|model| session(&model, 1).map(drop));
    assert_eq!(smallest(refused.unwrap_err()), least);
    // What was refused leaves the model usable, and gives back what it claimed.
    let budget = Budget::new(least);
    let model = open(&path, Some(&budget), 1).unwrap();
    let claimed = budget.claimed();
    let large =
        Session::new(Arc::clone(&model), &SessionOptions { context: 4096, ..SessionOptions::default() });
    assert!(large.is_err());
    assert_eq!(budget.claimed(), claimed);
    let mut small = session(&model, 1).unwrap();
    small.eval(&files.tokens(10), false, None).unwrap();
    drop(small);
    assert_eq!(budget.claimed(), claimed);
}

#[test]
fn a_budget_changes_while_the_model_is_open() {
    let files = Converted::new(&shape("q8_0", true));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(30));
    let expected = bits(&mut session(&open(&path, None, 2).unwrap(), 0).unwrap(), &tokens);
    let (least, whole) = (smallest_budget(&path), std::fs::metadata(&path).unwrap().len());
    let large = least + whole;
    let budget = Budget::new(large);
    let model = open(&path, Some(&budget), 2).unwrap();
    let mut session = session(&model, 4).unwrap();
    for total in [large, large / 2, 3 * large, large / 3, large] {
        budget.resize(total).unwrap();
        assert!(bits(&mut session, &tokens) == expected, "{total}");
    }
    assert!(matches!(budget.resize(1), Err(Error::Limit(_))));
    assert_eq!(budget.total(), large);
}

#[test]
fn sessions_share_the_weights_one_after_the_other_and_at_once() {
    let files = Converted::new(&shape("q8_0", false));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(30));
    let expected = bits(&mut session(&open(&path, None, 2).unwrap(), 0).unwrap(), &tokens);
    let budget = Budget::new(2 * smallest_budget(&path) + (2 << 20));
    let model = open(&path, Some(&budget), 2).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut session = session(&model, 2).unwrap();
                for _ in 0..3 {
                    assert!(bits(&mut session, &tokens) == expected);
                }
            });
        }
    });
    // Slices of one session between those of another.
    let mut both = [session(&model, 2).unwrap(), session(&model, 2).unwrap()];
    let mut texts = [Vec::new(), Vec::new()];
    let options = GenerateOptions { max_tokens: 6, ignore_end: true, ..GenerateOptions::default() };
    both.iter_mut().for_each(|session| session.start(&tokens, &options).unwrap());
    let mut running = 2;
    while running > 0 {
        running = 0;
        for (session, text) in both.iter_mut().zip(&mut texts) {
            let deadline = Some(Instant::now() + Duration::from_micros(700));
            match session.step(&Gate { deadline, cancel: None }).unwrap() {
                Step::Token { id, .. } => text.push(id),
                Step::Paused => {}
                Step::Finished(_) => continue,
            }
            running += 1;
        }
    }
    assert!(texts[0].len() == 6 && texts[0] == texts[1], "{texts:?}");
}

#[test]
fn a_cancelled_pass_can_be_taken_up_again() {
    let files = Converted::new(&shape("q8_0", false));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(30));
    let expected = bits(&mut session(&open(&path, None, 2).unwrap(), 0).unwrap(), &tokens);
    let budget = Budget::new(smallest_budget(&path) + (2 << 20));
    let model = open(&path, Some(&budget), 2).unwrap();
    let mut session = session(&model, 0).unwrap();
    let token = CancelToken::new();
    token.cancel();
    assert!(matches!(session.eval(&tokens, false, Some(&token)), Err(Error::Cancelled)));
    assert!(bits(&mut session, &tokens) == expected);
}

/// A file that counts what one thread asks of it, and cancels a token at a chosen number.
#[derive(Debug)]
struct Watched {
    file: FileSource,
    thread: ThreadId,
    asked: AtomicUsize,
    cancel_at: AtomicUsize,
    cancel: CancelToken,
}

impl Watched {
    fn count(&self) {
        if thread::current().id() == self.thread {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            if asked == self.cancel_at.load(Ordering::Relaxed) {
                self.cancel.cancel();
            }
        }
    }
}

impl ReadAt for Watched {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.count();
        self.file.read_exact_at(offset, buf)
    }

    // Asked for with every read past the cache.
    fn mappable(&self) -> Option<(&File, u64)> {
        self.count();
        self.file.mappable()
    }

    fn name(&self) -> String {
        self.file.name()
    }
}

#[test]
fn a_cancel_is_seen_between_the_rows_of_the_embedding() {
    // Not tied: the embedding is read by row alone, by the thread that evaluates, before anything else of a batch.
    let files = Converted::new(&shape("q8_0", false));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(40));
    let cancel = CancelToken::new();
    let watched = Arc::new(Watched {
        file: FileSource::open(&path).unwrap(),
        thread: thread::current().id(),
        asked: AtomicUsize::new(0),
        cancel_at: AtomicUsize::new(0),
        cancel: cancel.clone(),
    });
    let budget = Some(Budget::new(smallest_budget(&path) + (2 << 20)));
    let store = OpenOptions { mode: Mode::Exact, budget, ..OpenOptions::default() };
    let options = ModelOptions { store, ..ModelOptions::default() };
    let model = Arc::new(Model::open(&Origin::Source(watched.clone()), &options).unwrap());
    let mut session = session(&model, 0).unwrap();
    let options = GenerateOptions { max_tokens: 3, ignore_end: true, ..GenerateOptions::default() };
    let gate = Gate { deadline: None, cancel: Some(cancel.clone()) };
    let mut generate = |at: usize| {
        session.truncate(0);
        session.start(&tokens, &options).unwrap();
        let mut generated = Vec::new();
        watched.asked.store(0, Ordering::Relaxed);
        watched.cancel_at.store(at, Ordering::Relaxed);
        loop {
            match session.step(&gate) {
                Ok(Step::Token { id, .. }) => generated.push(id),
                Ok(Step::Finished(_)) => return generated,
                Ok(Step::Paused) => unreachable!("there is no deadline"),
                Err(error) => {
                    assert!(matches!(error, Error::Cancelled), "{error}");
                    let asked = watched.asked.load(Ordering::Relaxed);
                    // Where the system refuses direct reads a row is three requests.
                    assert!(asked <= at + 2, "{asked} requests, cancelled at number {at}");
                    cancel.reset();
                }
            }
        }
    };
    let expected = generate(0);
    for at in [1, 3, 17] {
        assert_eq!(generate(at), expected, "cancelled at request {at}");
    }
}

#[test]
fn a_fetch_that_has_no_room_leaves_the_model_usable() {
    let files = Converted::new(&shape("q8_0", false));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(10));
    let whole = open(&path, None, 1).unwrap();
    let capsule = "block.1.ffn";
    let stored = whole.store().manifest().capsule(capsule).unwrap().stored_bytes();
    // Room for the capsule and one of its three matrices twice, but not for four bytes an element.
    let budget = Budget::new(smallest_budget(&path) + 2 * stored);
    let model = open(&path, Some(&budget), 1).unwrap();
    let mut session = session(&model, 1).unwrap();
    let claimed = budget.claimed();
    let refused = model.store().fetch(capsule, FetchLayout::F32);
    assert!(matches!(refused, Err(Error::Limit(_))), "{refused:?}");
    assert_eq!(budget.claimed(), claimed);
    for layout in [FetchLayout::Source, FetchLayout::Stored] {
        let fetched = model.store().fetch(capsule, layout).unwrap();
        let own: u64 = fetched.tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum();
        assert_eq!(budget.claimed(), claimed + own, "what is held counts, and no more");
        let expected = whole.store().fetch(capsule, layout).unwrap();
        assert!(fetched.tensors.iter().zip(&expected.tensors).all(|(a, b)| a.bytes == b.bytes));
    }
    assert_eq!(budget.claimed(), claimed);
    session.eval(&tokens, false, None).unwrap();
    budget.resize(budget.total() + 8 * stored).unwrap();
    let fetched = model.store().fetch(capsule, FetchLayout::F32).unwrap();
    let expected = whole.store().fetch(capsule, FetchLayout::F32).unwrap();
    assert!(fetched.tensors.iter().zip(&expected.tensors).all(|(a, b)| a.bytes == b.bytes));
}

#[test]
fn a_mini_streams_from_its_full_file() {
    let files = Converted::new(&shape("q8_0", true));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(30));
    let expected = bits(&mut session(&open(&path, None, 2).unwrap(), 0).unwrap(), &tokens);
    let mini = files.path("m.mini.cgraph");
    let size = std::fs::metadata(&path).unwrap().len() * 7 / 10;
    split(&path, &mini, &SplitOptions { size, ..SplitOptions::default() }, &mut |_, _| {}).unwrap();
    let budget = Budget::new(smallest_budget(&mini) + (2 << 20));
    let model = open(&mini, Some(&budget), 2).unwrap();
    assert!(bits(&mut session(&model, 0).unwrap(), &tokens) == expected);
}

#[test]
fn a_file_that_ends_early_is_an_error_and_no_crash() {
    let files = Converted::new(&shape("q8_0", false));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(10));
    let content = std::fs::read(&path).unwrap();
    let budget = Budget::new(smallest_budget(&path) + (2 << 20));
    let model = open(&path, Some(&budget), 2).unwrap();
    let mut session = session(&model, 4).unwrap();
    let half = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    half.set_len(content.len() as u64 / 2).unwrap();
    let error = session.eval(&tokens, false, None).unwrap_err();
    assert!(error.to_string().contains("ends early"), "{error}");
    // Once the file is whole again, so is the session.
    std::fs::write(&path, &content).unwrap();
    session.truncate(0);
    assert!(session.eval(&tokens, false, None).is_ok());
}

#[test]
fn sessions_stepped_together_have_the_tokens_that_they_have_alone() {
    let files = Converted::new(&shape("q8_0", true));
    let path = files.path("m.cgraph");
    let options = |number: usize| GenerateOptions {
        sampling: SamplingOptions { temperature: 0.7 * number as f32, seed: 3, ..SamplingOptions::default() },
        max_tokens: 5 + 3 * number,
        ignore_end: true,
        ..GenerateOptions::default()
    };
    let prompt = |number: usize| files.tokens(4 + 9 * number);
    let alone = |number: usize| {
        let mut session = session(&open(&path, None, 2).unwrap(), 0).unwrap();
        session.start(&prompt(number), &options(number)).unwrap();
        let mut tokens = Vec::new();
        while let Step::Token { id, .. } = session.step(&Gate::open()).unwrap() {
            tokens.push(id);
        }
        (tokens, session.tokens().to_vec())
    };
    let expected: Vec<_> = (0..3).map(alone).collect();
    let whole = std::fs::metadata(&path).unwrap().len();
    for (total, slice) in [(None, None), (Some(whole), None), (Some(whole), Some(400))] {
        let budget = total.map(Budget::new);
        let model = open(&path, budget.as_ref(), 2).unwrap();
        let mut sessions: Vec<Session> = (0..3).map(|_| session(&model, 0).unwrap()).collect();
        let mut tokens = vec![Vec::new(); 3];
        for (number, session) in sessions.iter_mut().enumerate() {
            session.start(&prompt(number), &options(number)).unwrap();
        }
        let mut group = Group::new();
        loop {
            let deadline = slice.map(|us| Instant::now() + Duration::from_micros(us));
            let mut all: Vec<&mut Session> = sessions.iter_mut().collect();
            let steps = group.step(&mut all, &Gate { deadline, cancel: None }).unwrap();
            for (step, tokens) in steps.iter().zip(&mut tokens) {
                if let Step::Token { id, .. } = step {
                    tokens.push(*id);
                }
            }
            if steps.iter().all(|step| matches!(step, Step::Finished(_))) {
                break;
            }
        }
        let found: Vec<_> = tokens.into_iter().zip(sessions.iter().map(|s| s.tokens().to_vec())).collect();
        assert_eq!(found, expected, "{total:?}, {slice:?}");
    }
    let [one, other] = [open(&path, None, 1).unwrap(), open(&path, None, 1).unwrap()];
    let [mut a, mut b] = [session(&one, 0).unwrap(), session(&other, 0).unwrap()];
    assert!(Group::new().step(&mut [&mut a], &Gate::open()).is_err(), "no generation is in progress");
    for session in [&mut a, &mut b] {
        session.start(&prompt(0), &options(0)).unwrap();
    }
    assert!(Group::new().step(&mut [&mut a, &mut b], &Gate::open()).is_err(), "of two models");
}

#[test]
fn parts_of_a_model_give_the_bits_of_the_whole() {
    for tied in [true, false] {
        let files = Converted::new(&shape("q8_0", tied));
        let (path, tokens) = (files.path("m.cgraph"), files.tokens(20));
        let expected = bits(&mut session(&open(&path, None, 2).unwrap(), 0).unwrap(), &tokens);
        let whole = std::fs::metadata(&path).unwrap().len();
        // Ten capsules: the embedding, four blocks of two, the head.
        for cuts in [vec![0, 10], vec![0, 4, 10], vec![0, 1, 2, 5, 9, 10]] {
            for total in [None, Some(whole)] {
                let mut parts: Vec<Part> = Vec::new();
                for cut in cuts.windows(2) {
                    let range = Some(cut[0]..cut[1]);
                    let budget = total.map(Budget::new);
                    let store = OpenOptions { range, budget, ..OpenOptions::default() };
                    let options = ModelOptions { store, ..ModelOptions::default() };
                    let model = Arc::new(Model::open(&Origin::Path(path.clone()), &options).unwrap());
                    let options = SessionOptions { context: CONTEXT, ..SessionOptions::default() };
                    parts.push(Part::new(model, &options).unwrap());
                }
                let mut found = Vec::new();
                for (tokens, all) in [
                    (&tokens[..17], true),
                    (&tokens[17..18], false),
                    (&tokens[18..19], false),
                    (&tokens[19..], false),
                ] {
                    let mut hidden = Vec::new();
                    for part in &mut parts {
                        let input =
                            if hidden.is_empty() { Input::Tokens(tokens) } else { Input::Hidden(&hidden) };
                        match part.eval(input, all, None).unwrap() {
                            Output::Hidden(values) => hidden = values.to_vec(),
                            Output::Logits(logits) => found.extend(logits.iter().map(|x| x.to_bits())),
                        }
                    }
                }
                assert!(found == expected, "{cuts:?}, {total:?}, tied {tied}");
                assert!(parts[0].eval(Input::Hidden(&[0.0; 512]), false, None).is_err());
                assert_eq!(parts[0].len(), 20);
            }
        }
        let options = |range| ModelOptions {
            store: OpenOptions { range: Some(range), ..OpenOptions::default() },
            ..ModelOptions::default()
        };
        for wrong in [3..3, 0..11, 20..30] {
            assert!(Model::open(&Origin::Path(path.clone()), &options(wrong)).is_err());
        }
    }
}

#[test]
fn a_model_that_is_open_can_be_renamed() {
    let files = Converted::new(&shape("q8_0", true));
    let (path, other, tokens) = (files.path("m.cgraph"), files.path("other.cgraph"), files.tokens(20));
    let expected = bits(&mut session(&open(&path, None, 1).unwrap(), 4).unwrap(), &tokens);
    let budget = Budget::new(smallest_budget(&path) + std::fs::metadata(&path).unwrap().len() / 4);
    for budget in [None, Some(&budget)] {
        let model = open(&path, budget, 2).unwrap();
        std::fs::rename(&path, &other).unwrap();
        assert!(bits(&mut session(&model, 4).unwrap(), &tokens) == expected);
        drop(model);
        std::fs::rename(&other, &path).unwrap();
    }
}

/// Bytes of the mapping of `path` that are in this process's memory.
#[cfg(target_os = "linux")]
fn resident(path: &Path) -> u64 {
    let name = path.canonicalize().unwrap().to_string_lossy().into_owned();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines();
    let mut bytes = 0;
    while lines.by_ref().any(|line| line.ends_with(&name)) {
        let rss = lines.by_ref().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        bytes += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    }
    bytes
}

#[cfg(target_os = "linux")]
#[test]
fn pages_of_the_map_go_when_weights_begin_to_be_streamed() {
    let files = Converted::new(&shape("q8_0", true));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(20));
    let (least, whole) = (smallest_budget(&path), std::fs::metadata(&path).unwrap().len());
    let budget = Budget::new(2 * (least + whole));
    let model = open(&path, Some(&budget), 2).unwrap();
    let mut session = session(&model, 4).unwrap();
    let expected = bits(&mut session, &tokens);
    assert_eq!(model.store().weight_memory().unwrap().reads_in_flight, None, "nothing is streamed");
    let before = resident(&path);
    assert!(before > whole / 2, "{before} of {whole}");
    budget.resize(least + whole / 4).unwrap();
    let after = resident(&path);
    assert!(after < whole / 8, "{after} of {whole}, {before} before");
    assert!(bits(&mut session, &tokens) == expected);
    assert!(resident(&path) < whole / 8);
    let memory = model.store().weight_memory().unwrap();
    assert!(memory.reads_in_flight.is_some_and(|reads| [2, 4].contains(&reads)), "{memory:?}");
    assert!(memory.read_bytes > 0 && memory.read_bytes <= 2 << 20);
}

#[test]
fn an_evaluation_takes_fewer_tokens_at_a_time_where_logits_have_no_room() {
    let files = Converted::new(&shape("q8_0", true));
    let (path, tokens) = (files.path("m.cgraph"), files.tokens(60));
    let perplexity = |budget: Option<&Arc<Budget>>, batch: usize| {
        let mut session = session(&open(&path, budget, 1).unwrap(), 1).unwrap();
        let mut rows = 0;
        let mut count = |logits: &[f32]| {
            rows += logits.len() / files.vocab as usize;
            Ok(())
        };
        let result = evaluate(&mut session, &tokens, batch, None, &mut count, &mut |_| {})?;
        assert_eq!((rows, result.predicted), (60, result.tokens - result.windows));
        Ok::<_, Error>(result.perplexity.map(f64::to_bits))
    };
    let room = Budget::new(smallest_budget(&path) + 8 * 4 * u64::from(files.vocab));
    let expected = perplexity(None, 0).unwrap();
    assert!(expected.is_some() && perplexity(Some(&room), 0).unwrap() == expected);
    // A number that was asked for is not changed.
    assert!(matches!(perplexity(Some(&room), 60), Err(Error::Limit(_))));
}
