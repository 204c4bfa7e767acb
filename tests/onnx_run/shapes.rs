//! Shapes that a model takes, those that it refuses, and those that its source is wrong about.

use capsulegraph::Error;
use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions, Prepack};
use capsulegraph::onnx::value::{Input, TensorData, TensorView};
use capsulegraph::store::OpenOptions;
use capsulegraph::store::budget::Budget;

use crate::onnx::{
    Floats, Onnx, floats, floats_of, info, int, layers, model, node, noise, open, plain, tensor_type,
};
use crate::{MANY, bytes_of, needs_runtime};

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

/// Shapes of both inputs of a run.
type Run<'a> = [&'a [u64]; 2];

/// Two branches that meet, cut at every value; the source states shapes of what each gives. How many sessions the runs make
/// beside one a capsule. They give what the same model gives where nothing is stated.
fn further_sessions(stated: Option<[&[i64]; 2]>, runs: &[Run<'_>], options: &OnnxOptions) -> u64 {
    let of = |stated: Option<[&[i64]; 2]>| {
        let open = |name: &str| info(name, tensor_type(ElementType::Float32, None));
        let mut source = model(
            vec![
                node("MatMul", &["x", "w"], &["a"], vec![]),
                node("MatMul", &["z", "v"], &["b"], vec![]),
                node("Concat", &["a", "b"], &["c"], vec![int("axis", 0)]),
                node("MatMul", &["c", "u"], &["y"], vec![]),
            ],
            vec![open("x"), open("z")],
            vec![open("y")],
            [("w", 1), ("v", 2), ("u", 3)].map(|(name, seed)| floats(name, &[4, 4], noise(seed))).into(),
        );
        if let Some([a, b]) = stated {
            let info = |name, dims| info(name, tensor_type(ElementType::Float32, Some(dims)));
            source.graph.as_mut().unwrap().value_info = vec![info("a", a), info("b", b)];
        }
        Onnx::new(&source)
    };
    let (whole, cut) = (of(None), of(stated));
    let (whole, cut) = (whole.open(1, options.clone()), cut.open(MANY, options.clone()));
    let capsules = cut.store().manifest().capsules.len() as u64;
    assert_eq!(capsules, 4);
    for shapes in runs {
        let [x, z] = shapes.map(|shape| Floats::new(shape, noise(shape[0])));
        let run = |model: &OnnxModel| {
            let out = model.run(&[("x", x.input()), ("z", z.input())], &[], None).unwrap();
            (out[0].shape().to_vec(), floats_of(&out[0]))
        };
        let ((shape, found), (expected_shape, expected)) = (run(&cut), run(&whole));
        assert_eq!(shape, expected_shape, "{stated:?} {shapes:?}");
        // Whether weights are copied, which is decided capsule by capsule, may change the last bits.
        let most = if options.prepack == Prepack::Auto { 1e-5 } else { 0.0 };
        let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= most);
        assert!(near, "{stated:?} {shapes:?}: {found:?}, {expected:?}");
    }
    cut.stats().sessions_made - capsules
}

#[test]
fn a_shape_that_the_source_is_wrong_about_does_no_harm() {
    needs_runtime();
    // More rows are no reason for another session.
    let off = OnnxOptions { prepack: Prepack::Off, ..plain() };
    let rows = |n: &[u64]| -> Vec<[Vec<u64>; 2]> { n.iter().map(|n| [vec![*n, 4], vec![*n, 4]]).collect() };
    let any = |stated: Option<[&[i64]; 2]>, runs: &[[Vec<u64>; 2]], options: &OnnxOptions| {
        let runs: Vec<Run<'_>> = runs.iter().map(|[x, z]| [x.as_slice(), z.as_slice()]).collect();
        further_sessions(stated, &runs, options)
    };
    let further = |stated, runs: &[[Vec<u64>; 2]], options: &OnnxOptions| any(Some(stated), runs, options);
    // What is stated holds. Then as exporters leave it where one row was an example; what was seen once stays open.
    assert_eq!(further([&[-1, 4], &[-1, 4]], &rows(&[1, 3, 1]), &off), 0);
    assert_eq!(further([&[1, 4], &[1, 4]], &rows(&[1, 1]), &off), 0);
    assert_eq!(further([&[1, 4], &[1, 4]], &rows(&[1, 3, 1, 5, 3]), &off), 1);
    assert_eq!(further([&[1, 4], &[1, 4]], &rows(&[3, 1, 2]), &off), 0);
    // Wrong about what the weights say, and about the number of dimensions.
    for stated in [&[-1i64, 7][..], &[7], &[1, 1, 4], &[]] {
        assert_eq!(further([stated, stated], &rows(&[2, 1]), &off), 0, "{stated:?}");
    }
    // Now one, now the other.
    let turns = [[1, 2], [2, 1], [1, 2], [2, 1]].map(|rows| rows.map(|n: u64| vec![n, 4]));
    assert_eq!(further([&[1, 4], &[1, 4]], &turns, &off), 1);
    // Ranks in turns: each session is for any then, also where several rows are worth a copy of the weights.
    let turns = [2, 3, 2, 3, 2, 3].map(|rank| if rank == 2 { vec![8, 4] } else { vec![1, 1, 4] });
    let turns = turns.map(|shape| [shape.clone(), shape]);
    for (stated, options) in [(Some([&[8, 4][..], &[8, 4]]), &off), (None, &plain())] {
        let settled = any(stated, &turns[..4], options);
        assert_eq!(any(stated, &turns, options), settled, "{stated:?}");
    }
    // Copies of weights, which several rows are worth, are made once.
    let settled = further([&[8, 4], &[8, 4]], &rows(&[8, 1, 8, 1]), &plain());
    assert_eq!(further([&[8, 4], &[8, 4]], &rows(&[8, 1, 8, 1, 8, 1, 8]), &plain()), settled);
}

#[test]
fn a_wrong_shape_is_known_to_sessions_that_are_made_again() {
    needs_runtime();
    // 8 layers of 2 MiB each, of which a budget holds some.
    let source = layers(256, 8);
    let mut wrong = source.clone();
    let inner = |layer: u32| info(&format!("x{layer}"), tensor_type(ElementType::Float32, Some(&[1, 256])));
    wrong.graph.as_mut().unwrap().value_info = (0..7).map(inner).collect();
    let (right, path) = (Onnx::new(&source), Onnx::new(&wrong));
    let path = path.converted(8);
    for (prepack, joined_bytes) in [(Prepack::Off, 0), (Prepack::Off, 5 << 20), (Prepack::On, 0)] {
        let right = right.open(1, OnnxOptions { prepack, ..plain() });
        let store = OpenOptions { budget: Some(Budget::new(22 << 20)), ..OpenOptions::default() };
        let small = open(&path, OnnxOptions { store, joined_bytes, prepack, ..plain() });
        for rows in [1, 3, 1, 2] {
            let x = Floats::new(&[rows, 256], noise(rows));
            let run = |model: &OnnxModel| bytes_of(&model.run(&[("x", x.input())], &[], None).unwrap());
            assert_eq!(run(&small), run(&right), "{prepack:?} {joined_bytes} {rows}");
        }
        let memory = small.memory();
        assert!(memory.streamed > 0 && memory.peak <= (22 << 20) + (1 << 20), "{prepack:?}: {memory:?}");
    }
}

#[test]
fn threads_may_feed_what_a_wrong_shape_refuses() {
    needs_runtime();
    let mut source = layers(32, 4);
    let inner = |name: &str| info(name, tensor_type(ElementType::Float32, Some(&[1, 32])));
    source.graph.as_mut().unwrap().value_info = ["x0", "x1", "x2"].map(inner).into();
    let place = Onnx::new(&source);
    let off = || OnnxOptions { prepack: Prepack::Off, ..plain() };
    let (whole, cut) = (place.open(1, off()), place.open(4, off()));
    std::thread::scope(|scope| {
        for rows in 1..=4 {
            let (whole, cut) = (&whole, &cut);
            scope.spawn(move || {
                let x = Floats::new(&[rows, 32], noise(rows));
                let run = |model: &OnnxModel| bytes_of(&model.run(&[("x", x.input())], &[], None).unwrap());
                let expected = run(whole);
                (0..20).for_each(|_| assert_eq!(run(cut), expected, "{rows}"));
            });
        }
    });
}

#[test]
fn a_scalar_that_is_none_is_no_constant() {
    needs_runtime();
    let open = |name: &str| info(name, tensor_type(ElementType::Float32, None));
    let mut source = model(
        vec![node("Relu", &["x"], &["a"], vec![]), node("Shape", &["a"], &["y"], vec![])],
        vec![open("x")],
        vec![info("y", tensor_type(ElementType::Int64, Some(&[-1])))],
        vec![],
    );
    let scalar = info("a", tensor_type(ElementType::Float32, Some(&[])));
    source.graph.as_mut().unwrap().value_info = vec![scalar];
    let opened = Onnx::new(&source).open(2, OnnxOptions { optimization: true, ..plain() });
    assert_eq!(opened.store().manifest().capsules.len(), 2);
    for shape in [&[][..], &[2, 3], &[], &[4]] {
        let x = Floats::new(shape, noise(1));
        let out = opened.run(&[("x", x.input())], &[], None).unwrap();
        assert_eq!(out[0].shape(), [shape.len() as u64], "{shape:?}");
    }
    assert!(opened.stats().sessions_made <= 5, "{:?}", opened.stats());
}
