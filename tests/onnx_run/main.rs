//! ONNX models run capsule by capsule: the same bits however they are cut and whatever the budget, every kind of value, and
//! what is refused. Needs ONNX Runtime (`CAPSULEGRAPH_ONNXRUNTIME`), as `cargo xtask test` gets it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../support/onnx.rs"]
mod onnx;
mod shapes;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use capsulegraph::Error;
use capsulegraph::convert::onnx::proto::{GraphProto, ModelProto};
use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::library::VARIABLE;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions, Prepack};
use capsulegraph::onnx::value::{Input, TensorData, TensorView, Value};
use capsulegraph::pool::CancelToken;
use capsulegraph::store::OpenOptions;
use capsulegraph::store::budget::Budget;
use onnx::{
    Floats, Onnx, floats, floats_of, graph, info, ints, layers, model, node, noise, plain, tensor_type,
};

/// More capsules than any of the models has nodes.
const MANY: usize = 1000;

/// Says what is missing where the tests were started by hand.
fn needs_runtime() {
    assert!(
        std::env::var_os(VARIABLE).is_some(),
        "{VARIABLE} must name ONNX Runtime's library or its folder; cargo xtask test gets it"
    );
}

fn bytes_of(values: &[Value]) -> Vec<Vec<u8>> {
    values.iter().map(|value| value.bytes().unwrap().to_vec()).collect()
}

/// Runs the model cut in several ways, with small capsules joined or not; all must give the same bytes, which are given.
fn same_however_cut(source: &ModelProto, inputs: &[(&str, Input<'_>)]) -> Vec<Value> {
    needs_runtime();
    let place = Onnx::new(source);
    let whole = place.open(1, plain());
    let expected = whole.run(inputs, &[], None).unwrap();
    // Some of the smallest, or all of a model.
    let joined = [0, 200 << 10, u64::MAX];
    for (capsules, joined_bytes) in [2, 4, MANY].into_iter().flat_map(|n| joined.map(|bytes| (n, bytes))) {
        let cut = place.open(capsules, OnnxOptions { joined_bytes, ..plain() });
        assert!(cut.store().manifest().capsules.len() > 1);
        let got = cut.run(inputs, &[], None).unwrap();
        let again = cut.run(inputs, &[], None).unwrap();
        for (expected, got) in
            expected.iter().zip(got.iter().chain(&again)).chain(expected.iter().zip(&again))
        {
            assert_eq!(
                (expected.kind(), expected.element(), expected.shape()),
                (got.kind(), got.element(), got.shape())
            );
        }
        let tensors = |values: &[Value]| -> Vec<Vec<u8>> {
            values.iter().filter_map(|value| value.bytes().ok().map(<[u8]>::to_vec)).collect()
        };
        assert_eq!(tensors(&expected), tensors(&got), "{capsules} capsules");
        assert_eq!(tensors(&expected), tensors(&again), "{capsules} capsules, again");
    }
    expected
}

#[test]
fn cuts_change_no_bit() {
    let x = Floats::new(&[3, 32], noise(99));
    let out = same_however_cut(&layers(32, 4), &[("x", x.input())]);
    assert_eq!(out[0].shape(), [3, 32]);
    assert!(floats_of(&out[0]).iter().all(|v| v.is_finite()) && floats_of(&out[0]).iter().any(|v| *v != 0.0));
}

#[test]
fn optimised_runs_differ_little() {
    needs_runtime();
    let place = Onnx::new(&layers(32, 4));
    let x = Floats::new(&[5, 32], noise(7));
    let run = |capsules, options| {
        floats_of(&place.open(capsules, options).run(&[("x", x.input())], &[], None).unwrap()[0])
    };
    let expected = run(1, plain());
    for prepack in [Prepack::Auto, Prepack::On, Prepack::Off] {
        let got = run(4, OnnxOptions { prepack, optimization: true, ..plain() });
        assert!(
            expected.iter().zip(&got).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0)),
            "{prepack:?}"
        );
    }
}

#[test]
fn memory_that_the_system_refuses_is_an_error() {
    needs_runtime();
    let source = model(
        vec![node("ConstantOfShape", &["shape"], &["y"], vec![])],
        vec![info("shape", tensor_type(ElementType::Int64, Some(&[1])))],
        vec![info("y", tensor_type(ElementType::Float32, None))],
        vec![],
    );
    let opened = Onnx::new(&source).open(1, plain());
    let run = |len: i64| {
        let bytes = len.to_le_bytes();
        let shape = TensorView { element: ElementType::Int64, shape: &[1], data: TensorData::Bytes(&bytes) };
        opened.run(&[("shape", Input::Tensor(shape))], &[], None).map(|made| made[0].shape().to_vec())
    };
    for len in [1 << 45, i64::MAX / 4, i64::MAX] {
        let refused = run(len);
        assert!(
            matches!(&refused, Err(Error::Mismatch(why) | Error::Limit(why)) if why.contains("segment.0")),
            "{len}: {refused:?}"
        );
        assert!(len != 1 << 45 || matches!(refused, Err(Error::Limit(_))), "{refused:?}");
    }
    assert_eq!(run(1 << 20).unwrap(), [1 << 20]);
}

#[test]
fn small_neighbours_are_computed_by_one_session() {
    needs_runtime();
    // 8 layers of 2 MiB each.
    let place = Onnx::new(&layers(256, 8));
    let path = place.converted(8);
    let x = Floats::new(&[5, 256], noise(5));
    let mut expected = None;
    for (joined_bytes, sessions) in [(0, 8), (5 << 20, 4), (u64::MAX, 1)] {
        let opened = onnx::open(&path, OnnxOptions { joined_bytes, prepack: Prepack::On, ..plain() });
        let got = bytes_of(&opened.run(&[("x", x.input())], &[], None).unwrap());
        assert_eq!(*expected.get_or_insert_with(|| got.clone()), got, "{joined_bytes}");
        let stats = opened.stats();
        assert_eq!((stats.sessions, stats.sessions_made), (sessions, sessions as u64), "{joined_bytes}");
        assert_eq!(opened.prepacked().len(), 8, "{joined_bytes}");
    }
    // Two at a time stay or go.
    let store = OpenOptions { budget: Some(Budget::new(22 << 20)), ..OpenOptions::default() };
    let options = OnnxOptions { store, joined_bytes: 5 << 20, prepack: Prepack::Off, ..plain() };
    let limited = onnx::open(&path, options);
    let free = onnx::open(&path, OnnxOptions { prepack: Prepack::Off, ..plain() });
    let run = |model: &OnnxModel| bytes_of(&model.run(&[("x", x.input())], &[], None).unwrap());
    assert_eq!(run(&limited), run(&free));
    let memory = limited.memory();
    assert!(
        memory.pinned_capsules.is_multiple_of(2) && (2..8).contains(&memory.pinned_capsules),
        "{memory:?}"
    );
    assert!(memory.streamed > 0, "{memory:?}");
}

#[test]
fn a_budget_changes_no_bit_and_keeps_what_it_says() {
    needs_runtime();
    // 8 layers of 2 MiB each.
    let place = Onnx::new(&layers(256, 8));
    let path = place.converted(8);
    let x = Floats::new(&[2, 256], noise(5));
    for prepack in [Prepack::Off, Prepack::On] {
        let open = |budget: Option<u64>| {
            let store = OpenOptions { budget: budget.map(Budget::new), ..OpenOptions::default() };
            onnx::open(&path, OnnxOptions { store, prepack, ..plain() })
        };
        let expected = bytes_of(&open(None).run(&[("x", x.input())], &[], None).unwrap());
        for budget in [15 << 20, 20 << 20, 64 << 20] {
            let limited = open(Some(budget));
            for _ in 0..3 {
                let got = bytes_of(&limited.run(&[("x", x.input())], &[], None).unwrap());
                assert_eq!(expected, got, "{prepack:?} {budget}");
            }
            let memory = limited.memory();
            assert_eq!(memory.budget, Some(budget));
            assert!(memory.peak <= budget + (1 << 20), "{prepack:?} {budget}: {memory:?}");
            let all = memory.pinned_capsules == 8;
            assert_eq!(all, budget > 60 << 20, "{memory:?}");
            assert_eq!(memory.streamed > 0, !all, "{memory:?}");
        }
    }
}

#[test]
fn a_budget_that_cannot_work_is_refused_with_the_smallest_that_can() {
    let place = Onnx::new(&layers(256, 4));
    let path = place.converted(4);
    let open = |bytes: u64| {
        let store = OpenOptions { budget: Some(Budget::new(bytes)), ..OpenOptions::default() };
        OnnxModel::open(&capsulegraph::store::Origin::Path(path.clone()), &OnnxOptions { store, ..plain() })
    };
    let Err(Error::Limit(why)) = open(1 << 20) else { panic!("it was not refused") };
    let smallest: u64 =
        why.split("smallest possible one is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(open(smallest - 1).is_err(), "{why}");
    needs_runtime();
    let x = Floats::new(&[1, 256], noise(1));
    open(smallest).unwrap().run(&[("x", x.input())], &[], None).unwrap();
}

#[test]
fn models_share_a_budget() {
    needs_runtime();
    let place = Onnx::new(&layers(256, 4));
    let path = place.converted(4);
    // A model has 8 MiB of weights, sessions, and claims 8 MiB for activations.
    let budget = Budget::new(26 << 20);
    let open = || {
        let store = OpenOptions { budget: Some(Arc::clone(&budget)), ..OpenOptions::default() };
        onnx::open(&path, OnnxOptions { store, ..plain() })
    };
    let x = Floats::new(&[1, 256], noise(1));
    let first = open();
    let expected = bytes_of(&first.run(&[("x", x.input())], &[], None).unwrap());
    assert_eq!(first.memory().pinned_capsules, 4);
    let second = open();
    assert!(first.memory().pinned_capsules < 4, "the second takes its share");
    assert_eq!(bytes_of(&second.run(&[("x", x.input())], &[], None).unwrap()), expected);
    assert_eq!(bytes_of(&first.run(&[("x", x.input())], &[], None).unwrap()), expected);
    drop(second);
    assert!(budget.resize(64 << 20).is_ok());
    assert_eq!(first.memory().pinned_capsules, 4);
    assert!(matches!(budget.resize(1 << 20), Err(Error::Limit(_))));
}

#[test]
fn runs_on_several_threads_give_the_same() {
    needs_runtime();
    let place = Onnx::new(&layers(64, 4));
    for budget in [None, Some(Budget::new(12 << 20))] {
        let store = OpenOptions { budget, ..OpenOptions::default() };
        let shared = place.open(4, OnnxOptions { store, ..plain() });
        let inputs: Vec<Floats> = (0..4).map(|seed| Floats::new(&[2, 64], noise(seed))).collect();
        let run = |x: &Floats| bytes_of(&shared.run(&[("x", x.input())], &[], None).unwrap());
        let expected: Vec<_> = inputs.iter().map(run).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = inputs
                .iter()
                .map(|x| scope.spawn(move || (0..5).map(|_| run(x)).collect::<Vec<_>>()))
                .collect();
            for (thread, expected) in threads.into_iter().zip(&expected) {
                assert!(thread.join().unwrap().iter().all(|got| got == expected));
            }
        });
    }
}

#[test]
fn a_cancelled_run_ends_soon_and_the_model_stays_usable() {
    needs_runtime();
    // A loop of some seconds in one node.
    let body = GraphProto {
        name: Some("body".into()),
        node: vec![
            node("Identity", &["c"], &["c2"], vec![]),
            node("MatMul", &["v", "w"], &["t"], vec![]),
            node("Tanh", &["t"], &["v2"], vec![]),
        ],
        input: vec![
            info("i", tensor_type(ElementType::Int64, Some(&[]))),
            info("c", tensor_type(ElementType::Bool, Some(&[]))),
            info("v", tensor_type(ElementType::Float32, Some(&[64, 64]))),
        ],
        output: vec![
            info("c2", tensor_type(ElementType::Bool, Some(&[]))),
            info("v2", tensor_type(ElementType::Float32, Some(&[64, 64]))),
        ],
        ..GraphProto::default()
    };
    let source = model(
        vec![node("Loop", &["n", "", "x"], &["y"], vec![graph("body", body)])],
        vec![
            info("n", tensor_type(ElementType::Int64, Some(&[]))),
            info("x", tensor_type(ElementType::Float32, Some(&[64, 64]))),
        ],
        vec![info("y", tensor_type(ElementType::Float32, Some(&[64, 64])))],
        vec![floats("w", &[64, 64], noise(3))],
    );
    let looped = Onnx::new(&source).open(1, plain());
    let x = Floats::new(&[64, 64], noise(1));
    let times = |n: i64| n.to_le_bytes();
    let run = |n: &[u8], cancel: Option<&CancelToken>| {
        let count = TensorView { element: ElementType::Int64, shape: &[], data: TensorData::Bytes(n) };
        looped.run(&[("n", Input::Tensor(count)), ("x", x.input())], &[], cancel)
    };
    let token = CancelToken::new();
    let ended = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let ended = run(&times(1 << 40), Some(&token));
            (ended, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        token.cancel();
        let (ended, at) = run.join().unwrap();
        assert!(at.saturating_duration_since(asked) < Duration::from_secs(20));
        ended
    });
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    assert!(matches!(run(&times(1), Some(&token)), Err(Error::Cancelled)), "the flag stays up");
    token.reset();
    assert!(run(&times(3), Some(&token)).is_ok());
}

#[test]
fn only_what_is_wanted_is_computed() {
    needs_runtime();
    let source = model(
        vec![node("Relu", &["a"], &["p"], vec![]), node("Neg", &["b"], &["q"], vec![])],
        vec![
            info("a", tensor_type(ElementType::Float32, Some(&[2]))),
            info("b", tensor_type(ElementType::Float32, Some(&[2]))),
        ],
        vec![
            info("p", tensor_type(ElementType::Float32, Some(&[2]))),
            info("q", tensor_type(ElementType::Float32, Some(&[2]))),
        ],
        vec![],
    );
    let opened = Onnx::new(&source).open(2, plain());
    let b = Floats::new(&[2], |i| i as f32 + 1.0);
    let out = opened.run(&[("b", b.input())], &["q"], None).unwrap();
    assert_eq!(floats_of(&out[0]), [-1.0, -2.0]);
    assert_eq!(opened.stats().sessions_made, 1);
}

#[test]
fn inputs_that_are_outputs_pass_through_and_defaults_can_be_fed() {
    needs_runtime();
    let port = |name: &str| info(name, tensor_type(ElementType::Float32, Some(&[2])));
    let source = model(
        vec![node("Add", &["x", "bias"], &["t"], vec![]), node("Mul", &["t", "bias"], &["y"], vec![])],
        vec![port("x"), port("bias")],
        vec![port("y"), port("x")],
        vec![floats("bias", &[2], |i| i as f32 + 1.0)],
    );
    let place = Onnx::new(&source);
    for capsules in [1, 2] {
        let opened = place.open(capsules, plain());
        assert!(opened.inputs()[1].optional);
        let (x, bias) = (Floats::new(&[2], |_| 10.0), Floats::new(&[2], |_| 3.0));
        for _ in 0..2 {
            let out = opened.run(&[("x", x.input())], &[], None).unwrap();
            assert_eq!((floats_of(&out[0]), floats_of(&out[1])), (vec![11.0, 24.0], vec![10.0, 10.0]));
            let out = opened.run(&[("x", x.input()), ("bias", bias.input())], &[], None).unwrap();
            assert_eq!((floats_of(&out[0]), floats_of(&out[1])), (vec![39.0, 39.0], vec![10.0, 10.0]));
        }
    }
}

#[test]
fn control_flow_is_computed() {
    let branch = |op: &str| GraphProto {
        name: Some(op.into()),
        node: vec![node(op, &["h", "w"], &["r"], vec![])],
        output: vec![info("r", tensor_type(ElementType::Float32, None))],
        ..GraphProto::default()
    };
    let source = model(
        vec![
            node("Relu", &["x"], &["h"], vec![]),
            node(
                "If",
                &["which"],
                &["z"],
                vec![graph("then_branch", branch("Add")), graph("else_branch", branch("Sub"))],
            ),
            node("Neg", &["z"], &["y"], vec![]),
        ],
        vec![
            info("which", tensor_type(ElementType::Bool, Some(&[]))),
            info("x", tensor_type(ElementType::Float32, Some(&[1000]))),
        ],
        vec![info("y", tensor_type(ElementType::Float32, Some(&[1000])))],
        vec![floats("w", &[1000], |_| 2.0)],
    );
    let x = Floats::new(&[1000], |_| 5.0);
    for (which, expected) in [(1u8, -7.0), (0, -3.0)] {
        let byte = [which];
        let flag = TensorView { element: ElementType::Bool, shape: &[], data: TensorData::Bytes(&byte) };
        let out = same_however_cut(&source, &[("which", Input::Tensor(flag)), ("x", x.input())]);
        assert_eq!(floats_of(&out[0])[0], expected);
    }
}

#[test]
fn a_failure_of_the_runtime_names_the_capsule() {
    needs_runtime();
    let source = model(
        vec![node("Relu", &["x"], &["h"], vec![]), node("Reshape", &["h", "shape"], &["y"], vec![])],
        vec![info("x", tensor_type(ElementType::Float32, Some(&[-1])))],
        vec![info("y", tensor_type(ElementType::Float32, None))],
        vec![ints("shape", &[2], &[2, 2])],
    );
    let opened = Onnx::new(&source).open(2, plain());
    let x = Floats::new(&[3], noise(1));
    let why = opened.run(&[("x", x.input())], &[], None).unwrap_err().to_string();
    assert!(why.contains("run capsule segment.1 of") && why.contains("ONNX Runtime says"), "{why}");
    let x = Floats::new(&[4], noise(1));
    assert_eq!(opened.run(&[("x", x.input())], &[], None).unwrap()[0].shape(), [2, 2]);
}
