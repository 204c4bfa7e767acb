//! Values of every kind and element type.

use capsulegraph::Error;
use capsulegraph::convert::onnx::proto::{TypeProto, type_proto};
use capsulegraph::graph::element::ElementType;
use capsulegraph::graph::onnx::OnnxKind;
use capsulegraph::onnx::value::{Input, TensorData, TensorView, Value};

use crate::onnx::{Floats, Onnx, floats, floats_of, info, int, model, node, plain, tensor_type};
use crate::{MANY, needs_runtime};

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
