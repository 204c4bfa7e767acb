//! ONNX models run capsule by capsule: the same bits however they are cut and whatever the budget, every kind of value, and
//! what is refused. Needs ONNX Runtime (`CAPSULEGRAPH_ONNXRUNTIME`), as `cargo xtask test` gets it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/onnx.rs"]
mod onnx;

use std::sync::Arc;
use std::time::{Duration, Instant};

use capsulegraph::Error;
use capsulegraph::convert::onnx::proto::{GraphProto, ModelProto, TypeProto, type_proto};
use capsulegraph::graph::element::ElementType;
use capsulegraph::graph::onnx::OnnxKind;
use capsulegraph::onnx::library::VARIABLE;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions, Prepack};
use capsulegraph::onnx::value::{Input, TensorData, TensorView, Value};
use capsulegraph::pool::CancelToken;
use capsulegraph::store::OpenOptions;
use capsulegraph::store::budget::Budget;
use onnx::{
    Floats, Onnx, floats, floats_of, graph, info, int, ints, layers, model, node, noise, plain, tensor_type,
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
fn wrong_inputs_are_told_of() {
    needs_runtime();
    let two = model(
        vec![node("Add", &["a", "b"], &["s"], vec![]), node("Mul", &["s", "b"], &["p"], vec![])],
        vec![
            info("a", tensor_type(ElementType::Float32, Some(&[-1, 2]))),
            info("b", tensor_type(ElementType::Float32, Some(&[2]))),
        ],
        vec![
            info("s", tensor_type(ElementType::Float32, Some(&[-1, 2]))),
            info("p", tensor_type(ElementType::Float32, Some(&[-1, 2]))),
        ],
        vec![],
    );
    let opened = Onnx::new(&two).open(2, plain());
    let (a, b) = (Floats::new(&[3, 2], noise(1)), Floats::new(&[2], noise(2)));
    let told = |inputs: &[(&str, Input<'_>)], outputs: &[&str]| match opened.run(inputs, outputs, None) {
        Err(Error::InvalidArgument(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(told(&[("a", a.input())], &[]).contains("input b (float32[2]) must be given"));
    let why = told(&[("a", a.input()), ("c", b.input())], &[]);
    assert!(why.contains("no input \"c\"") && why.contains("a (float32[n1, 2]), b (float32[2])"), "{why}");
    assert!(told(&[("a", a.input()), ("b", b.input())], &["q"]).contains("no output \"q\""));
    assert!(told(&[("a", a.input()), ("a", a.input())], &[]).contains("twice"));
    assert!(told(&[("a", b.input()), ("b", b.input())], &[]).contains("shape [2]"));
    let short = TensorView { element: ElementType::Float32, shape: &[2], data: TensorData::Bytes(&[0; 7]) };
    assert!(told(&[("a", a.input()), ("b", Input::Tensor(short))], &[]).contains("7 bytes"));
    let odd = TensorView { element: ElementType::Int64, shape: &[2], data: TensorData::Bytes(&[0; 16]) };
    assert!(told(&[("a", a.input()), ("b", Input::Tensor(odd))], &[]).contains("a tensor of int64"));
    let out = opened.run(&[("b", b.input()), ("a", a.input())], &["p", "s", "p"], None).unwrap();
    assert_eq!(out.len(), 3);
    assert_eq!(bytes_of(&out[..1]), bytes_of(&out[2..]));
    assert_eq!(floats_of(&out[1]).len(), 6);
}

#[test]
fn dimensions_of_one_name_are_held_against_each_other() {
    needs_runtime();
    let port = |name: &str, dims: &[i64]| info(name, tensor_type(ElementType::Float32, Some(dims)));
    let source = model(
        vec![node("Neg", &["a"], &["p"], vec![]), node("Neg", &["b"], &["q"], vec![])],
        vec![port("a", &[-1, 2]), port("b", &[-1])],
        vec![port("p", &[-1, 2]), port("q", &[-1])],
        vec![],
    );
    let opened = Onnx::new(&source).open(1, plain());
    let run = |rows: u64, others: u64| {
        let (a, b) = (Floats::new(&[rows, 2], noise(1)), Floats::new(&[others], noise(2)));
        opened.run(&[("a", a.input()), ("b", b.input())], &[], None).map(|out| out.len())
    };
    assert_eq!(run(3, 3).unwrap(), 2);
    match run(3, 1) {
        Err(Error::InvalidArgument(why)) => {
            assert!(why.contains("\"n1\" is 3 in input \"a\"") && why.contains("1 in input \"b\""), "{why}");
        }
        other => panic!("{other:?}"),
    }
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
fn ranks_may_change_from_run_to_run() {
    needs_runtime();
    let open = |name: &str| info(name, tensor_type(ElementType::Float32, None));
    let source = model(
        vec![
            node("Relu", &["x"], &["a"], vec![]),
            node("Neg", &["a"], &["b"], vec![]),
            node("Abs", &["b"], &["y"], vec![]),
        ],
        vec![open("x")],
        vec![open("y")],
        vec![],
    );
    let opened = Onnx::new(&source).open(3, plain());
    for shape in [&[4u64][..], &[2, 2], &[1, 2, 2], &[], &[4]] {
        let x = Floats::new(shape, |i| i as f32 - 1.0);
        let out = opened.run(&[("x", x.input())], &[], None).unwrap();
        assert_eq!(out[0].shape(), shape);
    }
    assert!(opened.stats().sessions_made <= 6, "a session that takes any rank stays: {:?}", opened.stats());
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
fn strings_go_in_and_come_out() {
    needs_runtime();
    let port = |name: &str| info(name, tensor_type(ElementType::String, Some(&[-1])));
    let source = model(
        vec![
            node("Identity", &["s"], &["t"], vec![]),
            node("Concat", &["t", "s"], &["u"], vec![int("axis", 0)]),
        ],
        vec![port("s")],
        vec![info("u", tensor_type(ElementType::String, Some(&[-2])))],
        vec![],
    );
    let opened = Onnx::new(&source).open(2, plain());
    let strings: [&[u8]; 3] = ["grüße".as_bytes(), b"", b"a\0b"];
    let view = TensorView { element: ElementType::String, shape: &[3], data: TensorData::Strings(&strings) };
    let out = opened.run(&[("s", Input::Tensor(view))], &[], None).unwrap();
    let expected: Vec<Vec<u8>> = strings.iter().chain(&strings).map(|s| s.to_vec()).collect();
    assert_eq!((out[0].shape(), out[0].strings().unwrap()), (&[6][..], expected.as_slice()));
    assert!(out[0].bytes().is_err());
}

fn sequence_of(inner: TypeProto) -> TypeProto {
    let sequence = type_proto::Sequence { elem_type: Some(Box::new(inner)) };
    TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(sequence))), denotation: None }
}

fn optional_of(inner: TypeProto) -> TypeProto {
    let optional = type_proto::Sequence { elem_type: Some(Box::new(inner)) };
    TypeProto { value: Some(type_proto::Value::OptionalType(Box::new(optional))), denotation: None }
}

#[test]
fn sequences_go_in_and_come_out() {
    needs_runtime();
    let tensor = || tensor_type(ElementType::Float32, None);
    let source = model(
        vec![
            node("SequenceInsert", &["s", "x"], &["t"], vec![]),
            node("SequenceInsert", &["t", "x"], &["u"], vec![]),
            node("SequenceLength", &["u"], &["n"], vec![]),
        ],
        vec![info("s", sequence_of(tensor())), info("x", tensor_type(ElementType::Float32, Some(&[2])))],
        vec![info("u", sequence_of(tensor())), info("n", tensor_type(ElementType::Int64, Some(&[])))],
        vec![],
    );
    let opened = Onnx::new(&source).open(3, plain());
    let runtime = opened.runtime().unwrap();
    let x = Floats::new(&[2], |i| i as f32);
    let first = Value::tensor(runtime, &Floats::new(&[3], |_| 7.0).view()).unwrap();
    let given = Value::sequence(runtime, &[first]).unwrap();
    let run = |s: &Value| opened.run(&[("s", Input::Value(s)), ("x", x.input())], &[], None).unwrap();
    let out = run(&given);
    assert_eq!(out[0].kind(), OnnxKind::Sequence);
    let items: Vec<Vec<f32>> = out[0].items().unwrap().iter().map(floats_of).collect();
    assert_eq!(items, [vec![7.0; 3], vec![0.0, 1.0], vec![0.0, 1.0]]);
    assert_eq!(out[1].bytes().unwrap(), 3i64.to_le_bytes());
    let empty = opened.empty_input("s").unwrap();
    assert_eq!(empty.items().unwrap().len(), 0);
    assert_eq!(run(&empty)[1].bytes().unwrap(), 2i64.to_le_bytes());
    // What came out goes in.
    assert_eq!(run(&out[0])[1].bytes().unwrap(), 5i64.to_le_bytes());
    assert!(opened.empty_input("x").is_err());
    let why = opened.run(&[("s", x.input()), ("x", x.input())], &[], None).unwrap_err().to_string();
    assert!(why.contains("sequence of float32") && why.contains("a tensor"), "{why}");
}

#[test]
fn optional_values_may_be_absent() {
    needs_runtime();
    let port = || optional_of(tensor_type(ElementType::Float32, Some(&[2])));
    let source = model(
        vec![node("Identity", &["o"], &["p"], vec![]), node("OptionalHasElement", &["p"], &["has"], vec![])],
        vec![info("o", port())],
        vec![info("p", port()), info("has", tensor_type(ElementType::Bool, Some(&[])))],
        vec![],
    );
    let opened = Onnx::new(&source).open(2, plain());
    let x = Floats::new(&[2], |i| i as f32);
    let out = opened.run(&[("o", x.input())], &[], None).unwrap();
    assert_eq!((floats_of(&out[0]), out[1].bytes().unwrap()), (vec![0.0, 1.0], &[1u8][..]));
    let absent = opened.empty_input("o").unwrap();
    let out = opened.run(&[("o", Input::Value(&absent))], &[], None).unwrap();
    assert!(!out[0].is_present() && out[0].kind() == OnnxKind::Optional);
    assert_eq!(out[1].bytes().unwrap(), [0]);
}

#[test]
fn every_element_type_that_the_runtime_has_goes_through() {
    needs_runtime();
    let mut passed = Vec::new();
    for element in ElementType::all().filter(|element| *element != ElementType::String) {
        let port = |name: &str| info(name, tensor_type(element, Some(&[4])));
        let source = model(
            vec![node("Identity", &["x"], &["t"], vec![]), node("Identity", &["t"], &["y"], vec![])],
            vec![port("x")],
            vec![port("y")],
            vec![],
        );
        // The newest operator set, whose Identity has the most types.
        let mut source = source;
        source.opset_import[0].version = Some(25);
        source.ir_version = Some(13);
        let opened = Onnx::new(&source).open(2, plain());
        let bytes: Vec<u8> = (0..element.bytes_of(4).unwrap()).map(|i| (i * 3 + 1) as u8).collect();
        let bytes = if element == ElementType::Bool { vec![1, 0, 0, 1] } else { bytes };
        let view = TensorView { element, shape: &[4], data: TensorData::Bytes(&bytes) };
        match opened.run(&[("x", Input::Tensor(view))], &[], None) {
            Ok(out) => {
                assert_eq!(
                    (out[0].element(), out[0].shape(), out[0].bytes().unwrap()),
                    (Some(element), &[4][..], &bytes[..])
                );
                passed.push(element);
            }
            // The runtime has no kernel for every type.
            Err(Error::Unsupported(_) | Error::Mismatch(_) | Error::InvalidArgument(_)) => {}
            Err(other) => panic!("{}: {other}", element.name()),
        }
    }
    let names: Vec<&str> = passed.iter().map(|element| element.name()).collect();
    for wanted in [
        "float32",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "bool",
        "float16",
        "float64",
        "uint32",
        "uint64",
        "bfloat16",
        "float8e4m3fn",
        "float8e5m2",
    ] {
        assert!(names.contains(&wanted), "{wanted} is missing among {names:?}");
    }
}

#[test]
fn elements_of_half_a_byte_go_in_and_come_out() {
    needs_runtime();
    for (element, low) in [(ElementType::Int4, -8.0), (ElementType::Uint4, 0.0)] {
        let source = model(
            vec![
                node("DequantizeLinear", &["x", "scale"], &["f"], vec![]),
                node("Neg", &["f"], &["g"], vec![]),
                node("Neg", &["g"], &["h"], vec![]),
                node(
                    "QuantizeLinear",
                    &["h", "scale"],
                    &["y"],
                    vec![int("output_dtype", i64::from(element.onnx()))],
                ),
            ],
            vec![info("x", tensor_type(element, Some(&[5])))],
            vec![
                info("y", tensor_type(element, Some(&[5]))),
                info("f", tensor_type(ElementType::Float32, Some(&[5]))),
            ],
            vec![floats("scale", &[], |_| 1.0)],
        );
        let mut source = source;
        source.opset_import[0].version = Some(21);
        source.ir_version = Some(10);
        let opened = Onnx::new(&source).open(MANY, plain());
        // 8, 1, 2, 3, 4: the first in the low bits.
        let bytes = [0x18, 0x32, 0x04];
        let view = TensorView { element, shape: &[5], data: TensorData::Bytes(&bytes) };
        let out = opened.run(&[("x", Input::Tensor(view))], &[], None).unwrap();
        assert_eq!((out[0].element(), out[0].bytes().unwrap()), (Some(element), &bytes[..]));
        let eight = if low < 0.0 { -8.0 } else { 8.0 };
        assert_eq!(floats_of(&out[1]), [eight, 1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn elements_at_odd_addresses_are_read() {
    needs_runtime();
    let port = |name: &str| info(name, tensor_type(ElementType::Float32, Some(&[-1])));
    let source = model(vec![node("Neg", &["x"], &["y"], vec![])], vec![port("x")], vec![port("y")], vec![]);
    let opened = Onnx::new(&source).open(1, plain());
    // Zeros before the numbers: they begin at each distance from an address that is a multiple of 16.
    let numbers: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut held = [0u8; 64];
    let base = held.as_ptr().align_offset(16);
    for start in 0..8 {
        let part = &mut held[base + start..][..12];
        part.copy_from_slice(&numbers);
        assert_eq!(part.as_ptr() as usize % 4, start % 4);
        let view = TensorView { element: ElementType::Float32, shape: &[3], data: TensorData::Bytes(part) };
        let out = opened.run(&[("x", Input::Tensor(view))], &[], None).unwrap();
        assert_eq!((out[0].shape(), floats_of(&out[0])), (&[3][..], vec![-1.0, -2.0, -3.0]), "{start}");
    }
    let none = Floats::new(&[0], |_| 0.0);
    assert_eq!(opened.run(&[("x", none.input())], &[], None).unwrap()[0].shape(), [0]);
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
