//! Shapes that a model takes, those that it refuses, and those that its source is wrong about.

use capsulegraph::Error;
use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions, Prepack};
use capsulegraph::onnx::value::{Input, TensorData, TensorView};

use crate::onnx::{Floats, Onnx, floats, floats_of, info, model, node, noise, plain, tensor_type};
use crate::{bytes_of, needs_runtime};

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

/// Two layers with a value between them that the source states a shape of, and how many sessions runs on these numbers of rows
/// make, cut between the two. The rows come out as they do of the whole.
fn sessions_of(stated: &[i64], rows: &[u64]) -> u64 {
    let port = |name: &str| info(name, tensor_type(ElementType::Float32, Some(&[-1, 4])));
    let mut source = model(
        vec![
            node("MatMul", &["x", "w"], &["a"], vec![]),
            node("MatMul", &["a", "v"], &["b"], vec![]),
            node("Relu", &["b"], &["y"], vec![]),
        ],
        vec![port("x")],
        vec![port("y")],
        vec![floats("w", &[4, 4], noise(1)), floats("v", &[4, 4], noise(2))],
    );
    let place = Onnx::new(&source);
    let whole = place.open(1, plain());
    let inner = info("a", tensor_type(ElementType::Float32, Some(stated)));
    source.graph.as_mut().unwrap().value_info.push(inner);
    let place = Onnx::new(&source);
    // More rows are no reason for another session.
    let opened = place.open(2, OnnxOptions { prepack: Prepack::Off, ..plain() });
    assert_eq!(opened.store().manifest().capsules.len(), 2);
    for rows in rows {
        let x = Floats::new(&[*rows, 4], noise(*rows));
        let run = |model: &OnnxModel| {
            let out = model.run(&[("x", x.input())], &[], None).unwrap();
            (out[0].shape().to_vec(), out[0].bytes().unwrap().to_vec())
        };
        assert_eq!(run(&opened), run(&whole), "{stated:?} {rows}");
    }
    opened.stats().sessions_made
}

#[test]
fn a_shape_that_the_source_is_wrong_about_does_no_harm() {
    needs_runtime();
    // As exporters leave it where one row was an example.
    assert_eq!(sessions_of(&[1, 4], &[1, 1]), 2);
    assert_eq!(sessions_of(&[1, 4], &[1, 3, 1, 5, 3]), 3, "one that takes any number of rows stays");
    assert_eq!(sessions_of(&[1, 4], &[3, 1, 2]), 2);
    // Wrong about what the weights say, and about the number of dimensions.
    for stated in [&[-1i64, 7][..], &[7], &[1, 1, 4], &[]] {
        assert_eq!(sessions_of(stated, &[2, 1]), 2, "{stated:?}");
    }
}
