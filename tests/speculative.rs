//! Mode speculative gives the tokens of mode exact: whatever the mini guesses, the sampling, the budget, the slices.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capsulegraph::Error;
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::generate::SamplingOptions;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::plan::{BudgetPlan, ModePlan, budget_plan};
use capsulegraph::generate::session::{FinishReason, GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::pool::{CancelToken, Gate};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::budget::Budget;
use capsulegraph::store::{Mode, OpenOptions, Origin};
use support::{Random, TinyModel};

struct Files {
    _dir: tempfile::TempDir,
    full: PathBuf,
    mini: PathBuf,
    vocab: u32,
}

/// A model of f16 weights and a mini of which some capsules are light.
fn files(tied: bool) -> Files {
    let model = TinyModel::for_minis("f16", "f16", tied);
    let dir = tempfile::tempdir().unwrap();
    let [source, full, mini] = ["m.gguf", "m.cgraph", "m.mini.cgraph"].map(|name| dir.path().join(name));
    model.write(&source);
    convert(&source, &full, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
    let size = std::fs::metadata(&full).unwrap().len() * 6 / 10;
    split(&full, &mini, &SplitOptions { size, ..SplitOptions::default() }, &mut |_, _| {}).unwrap();
    Files { _dir: dir, full, mini, vocab: model.vocab_size() as u32 }
}

fn open(path: &std::path::Path, mode: Mode, budget: Option<u64>) -> Arc<Model> {
    let store = OpenOptions { mode, budget: budget.map(Budget::new), ..OpenOptions::default() };
    Arc::new(
        Model::open(&Origin::Path(path.to_owned()), &ModelOptions { store, ..ModelOptions::default() })
            .unwrap(),
    )
}

fn session(model: &Arc<Model>, context: usize, without_lookup: bool) -> Session {
    let options = SessionOptions { context, without_lookup, ..SessionOptions::default() };
    Session::new(Arc::clone(model), &options).unwrap()
}

fn prompt(vocab: u32, n: usize) -> Vec<u32> {
    let mut random = Random(11);
    (0..n).map(|_| random.bits() as u32 % vocab).collect()
}

/// All tokens, the text, and how it ended; in slices of that many microseconds.
fn generate(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
    slice: Option<u64>,
) -> (Vec<u32>, String, FinishReason) {
    session.start(prompt, options).unwrap();
    let (mut tokens, mut all) = (Vec::new(), String::new());
    loop {
        let deadline = slice.map(|us| Instant::now() + Duration::from_micros(us));
        match session.step(&Gate { deadline, cancel: None }).unwrap() {
            Step::Paused => {}
            Step::Token { id, text } => {
                tokens.push(id);
                all.push_str(&text);
            }
            Step::Finished(reason) => return (tokens, all, reason),
        }
    }
}

fn samplings() -> [SamplingOptions; 4] {
    [
        SamplingOptions::default(),
        SamplingOptions { repeat_penalty: 1.3, ..SamplingOptions::default() },
        SamplingOptions { temperature: 0.8, seed: 5, top_k: 40, ..SamplingOptions::default() },
        SamplingOptions {
            temperature: 0.3,
            seed: 9,
            top_p: 0.9,
            repeat_penalty: 1.1,
            ..SamplingOptions::default()
        },
    ]
}

#[test]
fn the_tokens_are_those_of_exact() {
    for tied in [true, false] {
        let files = files(tied);
        let prompt = prompt(files.vocab, 12);
        let exact = open(&files.full, Mode::Exact, None);
        let whole = std::fs::metadata(&files.full).unwrap().len();
        let minis =
            [None, Some(whole * 3 / 2), Some(4 * whole)].map(|b| open(&files.mini, Mode::Speculative, b));
        let alone = open(&files.full, Mode::Speculative, None);
        let (mut drafted, mut accepted) = (0, 0);
        for sampling in samplings() {
            let options =
                GenerateOptions { sampling, max_tokens: 60, ignore_end: true, ..GenerateOptions::default() };
            let expected = generate(&mut session(&exact, 128, false), &prompt, &options, None);
            for (number, model) in minis.iter().chain([&alone]).enumerate() {
                for (without_lookup, slice) in [(true, None), (false, None), (true, Some(150))] {
                    let mut session = session(model, 128, without_lookup);
                    // Twice: what is learnt of the costs changes the rounds, not the tokens.
                    for _ in 0..2 {
                        let found = generate(&mut session, &prompt, &options, slice);
                        assert_eq!(
                            found, expected,
                            "{sampling:?}, model {number}, {without_lookup}, {slice:?}"
                        );
                        let known: Vec<u32> = prompt.iter().chain(&expected.0).copied().collect();
                        assert_eq!(session.tokens(), &known[..known.len() - 1]);
                    }
                    let stats = session.speculation().unwrap();
                    drafted += stats.drafted;
                    accepted += stats.accepted;
                    assert!(stats.accepted <= stats.drafted && stats.passes > 0);
                }
            }
        }
        assert!(drafted > 0 && accepted > 0, "{drafted} guesses, of which {accepted} held");
    }
}

#[test]
fn ends_are_those_of_exact() {
    let files = files(true);
    let prompt = prompt(files.vocab, 12);
    let [exact, speculative] = [(&files.full, Mode::Exact), (&files.mini, Mode::Speculative)]
        .map(|(path, mode)| open(path, mode, None));
    let options = |max_tokens, stop: &[String]| GenerateOptions {
        max_tokens,
        stop: stop.to_vec(),
        ignore_end: true,
        ..GenerateOptions::default()
    };
    let (_, text, _) = generate(&mut session(&exact, 64, true), &prompt, &options(30, &[]), None);
    let letters: Vec<char> = text.chars().collect();
    let stop: String = letters[letters.len() / 2..].iter().take(2).collect();
    for (max_tokens, stop, context) in
        [(1, vec![], 64), (2, vec![], 64), (7, vec![], 64), (0, vec![stop], 64), (0, vec![], 31)]
    {
        let options = options(max_tokens, &stop);
        let expected = generate(&mut session(&exact, context, true), &prompt, &options, None);
        let mut session = session(&speculative, context, false);
        assert_eq!(
            generate(&mut session, &prompt, &options, None),
            expected,
            "{max_tokens}, {stop:?}, {context}"
        );
        // The session is as one that computed token by token: what follows is the same.
        let [mut a, mut b] = [self::session(&exact, context, true), session];
        generate(&mut a, &prompt, &options, None);
        assert_eq!(a.tokens(), b.tokens());
        let rest = a.context() - a.tokens().len();
        if rest > 0 {
            assert!(a.eval(&[3], false, None).unwrap() == b.eval(&[3], false, None).unwrap());
        }
    }
}

#[test]
fn a_cancelled_round_goes_on() {
    let files = files(false);
    let prompt = prompt(files.vocab, 12);
    let exact = open(&files.full, Mode::Exact, None);
    let options = GenerateOptions { max_tokens: 40, ignore_end: true, ..GenerateOptions::default() };
    let (expected, ..) = generate(&mut session(&exact, 128, true), &prompt, &options, None);
    let mut session = session(&open(&files.mini, Mode::Speculative, None), 128, true);
    session.start(&prompt, &options).unwrap();
    let (token, mut tokens) = (CancelToken::new(), Vec::new());
    let gate = Gate { deadline: None, cancel: Some(token.clone()) };
    for turn in 0.. {
        if turn % 2 == 0 {
            token.cancel();
        } else {
            token.reset();
        }
        match session.step(&gate) {
            Ok(Step::Token { id, .. }) => tokens.push(id),
            Ok(Step::Finished(_)) => break,
            Ok(Step::Paused) => {}
            Err(error) => assert!(matches!(error, Error::Cancelled), "{error}"),
        }
    }
    assert_eq!(tokens, expected);
}

fn for_session(mode: Mode, budget: &Arc<Budget>) -> (ModelOptions, SessionOptions) {
    let session = SessionOptions { context: 128, ..SessionOptions::default() };
    let store = OpenOptions { mode, budget: Some(Arc::clone(budget)), ..OpenOptions::default() };
    (ModelOptions { store, session: session.clone(), threads: 2.into() }, session)
}

/// The model at `path` in a budget, opened for a session that is then made.
fn try_open(path: &std::path::Path, mode: Mode, budget: &Arc<Budget>) -> Result<Session, Error> {
    let (options, session) = for_session(mode, budget);
    let model = Arc::new(Model::open(&Origin::Path(path.to_owned()), &options)?);
    Session::new(model, &session)
}

fn plan(path: &std::path::Path, budget: &Arc<Budget>) -> BudgetPlan {
    let (options, session) = for_session(Mode::Auto, budget);
    budget_plan(&Origin::Path(path.to_owned()), &options, &session, Some(1e8), None).unwrap()
}

fn row(plan: &BudgetPlan, mode: Mode) -> &ModePlan {
    plan.modes.iter().find(|row| row.mode == mode).unwrap()
}

#[test]
fn a_plan_says_what_modes_need_and_what_auto_takes() {
    for (tied, shared) in [(true, false), (false, false), (true, true)] {
        let files = files(tied);
        let mini = files.mini.as_path();
        let whole = std::fs::metadata(&files.full).unwrap().len();
        // A budget of that size, in which another session may be open already.
        let budget_of = |total: u64| {
            let budget = Budget::new(total);
            let other = shared.then(|| {
                let (options, session) = for_session(Mode::Exact, &budget);
                let model = Model::open(&Origin::Path(files.full.clone()), &options).unwrap();
                // Of a session whose batches are its own choice the claim depends on the budget.
                Session::new(Arc::new(model), &SessionOptions { batch: 4, ..session }).unwrap()
            });
            (budget, other)
        };
        let (ample, _other) = budget_of(1 << 40);
        let ample = plan(mini, &ample);
        let least = |mode: Mode| {
            let row = row(&ample, mode);
            assert!(row.fits && row.tokens_per_s > 0.0, "{row:?}");
            row.smallest_budget_bytes
        };
        // Opening and the session work in the smallest budget, and in none below it: the error names it.
        for mode in [Mode::Exact, Mode::Speculative, Mode::Fast] {
            let least = least(mode);
            let (budget, _other) = budget_of(least);
            try_open(mini, mode, &budget).unwrap_or_else(|e| panic!("{mode:?} in {least}: {e}"));
            if mode != Mode::Fast {
                let (budget, _other) = budget_of(least - 1);
                let refused = try_open(mini, mode, &budget).map(drop).unwrap_err().to_string();
                assert!(
                    refused.contains(&format!("the smallest possible one is {least} bytes")),
                    "{refused}"
                );
            }
        }
        let (exact, guessing) = (least(Mode::Exact), least(Mode::Speculative));
        assert!(exact < guessing);
        for total in [exact, (exact + guessing) / 2, guessing - 1, guessing, guessing + whole / 8, 4 * whole]
        {
            let (budget, _other) = budget_of(total);
            let plan = plan(mini, &budget);
            let session = try_open(mini, Mode::Auto, &budget).unwrap();
            let store = session.model().store();
            assert_eq!(
                (plan.taken, plan.reason.as_str()),
                (Some(store.mode()), store.mode_reason()),
                "{total}"
            );
            let fits = row(&plan, Mode::Speculative).fits;
            assert_eq!(fits, total >= guessing, "{tied}, {total} of {guessing}: {plan:?}");
            if !fits && row(&plan, Mode::Exact).streamed_bytes > 0 {
                let why = format!("a session of 128 positions needs a budget of {guessing} bytes");
                assert!(store.mode() == Mode::Exact && plan.reason.contains(&why), "{}", plan.reason);
            }
        }
        // Where not even exact has room for that session the plan says so; a shorter one may have.
        let (budget, _other) = budget_of(exact - 1);
        let none = plan(mini, &budget);
        let why = format!("needs a budget of {exact} bytes");
        assert!(none.taken.is_none() && none.reason.contains(&why), "{}", none.reason);
        let (options, session) = for_session(Mode::Auto, &budget);
        let model = Arc::new(Model::open(&Origin::Path(mini.to_owned()), &options).unwrap());
        let told = model.store().mode_reason();
        assert!(model.store().mode() == Mode::Exact && told.contains(&why), "{told}");
        assert!(Session::new(Arc::clone(&model), &session).is_err());
        Session::new(model, &SessionOptions { context: 16, ..session }).unwrap();
    }
}

#[test]
fn a_range_of_the_capsules_is_exact_and_needs_no_session() {
    let files = files(true);
    let refusal = |range: Option<std::ops::Range<usize>>, total: u64| {
        let (mut options, _) = for_session(Mode::Auto, &Budget::new(total));
        options.store.range = range;
        Model::open(&Origin::Path(files.mini.clone()), &options)
    };
    let part = Some(0..3);
    let Err(Error::Limit(why)) = refusal(part.clone(), 1).map(drop) else { panic!("one byte is enough") };
    assert!(!why.contains("a session"), "{why}");
    let named = why.rsplit_once("possible one is ").unwrap().1.split(' ').next().unwrap();
    let model = refusal(part, named.parse().unwrap()).unwrap();
    assert_eq!(model.store().mode(), Mode::Exact);
    let (mut options, session) = for_session(Mode::Auto, &Budget::new(1 << 40));
    options.store.range = Some(0..3);
    let refused = budget_plan(&Origin::Path(files.mini.clone()), &options, &session, None, None);
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
}

#[test]
fn a_small_budget_shortens_rounds_rather_than_the_batches_of_a_prompt() {
    let files = files(true);
    let ample = Budget::new(1 << 40);
    let (options, session) = for_session(Mode::Speculative, &ample);
    let sixteen = SessionOptions { batch: 16, ..session.clone() };
    let origin = Origin::Path(files.mini.clone());
    let plan = budget_plan(&origin, &options, &sixteen, Some(1e8), None).unwrap();
    // Just enough for batches of 16 tokens and the shortest rounds.
    let least = row(&plan, Mode::Speculative).smallest_budget_bytes;
    let prompt = prompt(files.vocab, 100);
    let read = |options_of: SessionOptions| {
        let (mut options, _) = for_session(Mode::Speculative, &Budget::new(least));
        options.session = options_of.clone();
        let model = Arc::new(Model::open(&origin, &options).unwrap());
        let mut session = Session::new(Arc::clone(&model), &options_of).unwrap();
        session.eval(&prompt, false, None).unwrap();
        model.store().weight_memory().unwrap().streamed
    };
    let (chosen, automatic) = (read(sixteen), read(session));
    assert!(automatic <= chosen * 5 / 4, "{automatic} bytes where batches of 16 read {chosen}");
}
