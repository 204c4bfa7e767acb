//! Minis of ONNX models: light forms that answer alone, lengths, bounds of their error, links and repair. Needs ONNX Runtime
//! (`CAPSULEGRAPH_ONNXRUNTIME`), as `cargo xtask test` gets it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/onnx.rs"]
mod onnx;

use std::fs;
use std::path::Path;

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::container::manifest::{Residence, SplitPlan};
use capsulegraph::container::npy::NpyWriter;
use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::proto::{AttributeProto, ModelProto};
use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions};
use capsulegraph::split::job::{Targets, produce};
use capsulegraph::split::verify::{VerifyOptions, check};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::{Mode, OpenOptions, Origin};
use capsulegraph::{Error, Result};
use onnx::{
    Floats, Onnx, floats, floats_of, info, int, ints, layers, model, node, noise, plain, tensor_type,
};

const WIDTH: u64 = 128;
const LAYERS: usize = 4;

fn in_mode(mode: Mode) -> OnnxOptions {
    OnnxOptions { store: OpenOptions { mode, ..OpenOptions::default() }, ..plain() }
}

fn try_open(path: &Path, mode: Mode) -> Result<OnnxModel> {
    OnnxModel::open(&Origin::Path(path.to_owned()), &in_mode(mode))
}

fn run(path: &Path, mode: Mode, seed: u64) -> Vec<f32> {
    let x = Floats::new(&[3, WIDTH], noise(seed));
    floats_of(&try_open(path, mode).unwrap().run(&[("x", x.input())], &[], None).unwrap()[0])
}

/// The root of the mean squared difference, relative to the numbers' own.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let sum = |of: &dyn Fn((&f32, &f32)) -> f64| found.iter().zip(expected).map(of).sum::<f64>();
    (sum(&|(a, b)| f64::from(a - b).powi(2)) / sum(&|(_, b)| f64::from(*b).powi(2))).sqrt()
}

fn residences(plan: &SplitPlan, wanted: Residence) -> usize {
    plan.capsules.iter().filter(|capsule| capsule.residence == wanted).count()
}

#[test]
fn a_mini_answers_alone_and_names_its_error() {
    let place = Onnx::new(&layers(WIDTH as i64, LAYERS));
    let (full, mini) = (place.converted(LAYERS), place.path("m.mini.cgraph"));
    let summary = split(&full, &mini, &SplitOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(residences(&summary.plan, Residence::Light), LAYERS);
    // Codes of 8 bits and a scale of 32 bits for 32 of them, where there were 32 bits each.
    assert!(summary.bytes < summary.full_bytes * 2 / 5, "{} of {}", summary.bytes, summary.full_bytes);
    let recorded = summary.plan.output_error.unwrap();
    assert!(recorded > 0.0 && recorded < 0.05, "{recorded}");

    let expected = run(&full, Mode::Exact, 5);
    assert_eq!(run(&mini, Mode::Exact, 5), expected, "with its full file a mini is exact");
    fs::remove_file(&full).unwrap();
    let alone = run(&mini, Mode::Fast, 5);
    assert_eq!(run(&mini, Mode::Auto, 5), alone);
    let joined = OnnxOptions { joined_bytes: u64::MAX, ..in_mode(Mode::Fast) };
    let x = Floats::new(&[3, WIDTH], noise(5));
    let joined = onnx::open(&mini, joined);
    assert_eq!(floats_of(&joined.run(&[("x", x.input())], &[], None).unwrap()[0]), alone);
    assert_eq!(joined.stats().sessions, 1);
    let found = error(&alone, &expected);
    assert!(found > 0.0 && found < 3.0 * recorded, "{found}, and {recorded} was measured");
    assert!(try_open(&mini, Mode::Exact).is_err());
}

#[test]
fn a_mini_is_as_long_as_it_may_be() {
    let place = Onnx::new(&layers(WIDTH as i64, LAYERS));
    let (full, mini) = (place.converted(LAYERS), place.path("m.mini.cgraph"));
    let whole = fs::metadata(&full).unwrap().len();
    let mut last = f64::INFINITY;
    for percent in [30, 45, 60, 80] {
        let size = whole * percent / 100;
        let options = SplitOptions { size, max_error: Some(1.0), ..SplitOptions::default() };
        let summary = split(&full, &mini, &options, &mut |_, _| {}).unwrap();
        assert_eq!(summary.bytes, fs::metadata(&mini).unwrap().len());
        assert!(summary.bytes <= size, "{} of {size}", summary.bytes);
        let error = summary.plan.output_error.unwrap();
        assert!(error <= last, "a longer mini is no worse: {error} after {last}");
        last = error;
    }
    let before = fs::read(&mini).unwrap();
    let options = SplitOptions { size: whole / 20, ..SplitOptions::default() };
    let refused = split(&full, &mini, &options, &mut |_, _| {});
    assert!(matches!(&refused, Err(Error::Limit(why)) if why.contains("the smallest is")), "{refused:?}");
    assert_eq!(fs::read(&mini).unwrap(), before);
}

#[test]
fn links_need_the_full_file() {
    let place = Onnx::new(&layers(WIDTH as i64, LAYERS));
    let (full, mini) = (place.converted(LAYERS), place.path("m.mini.cgraph"));
    let size = fs::metadata(&full).unwrap().len() / 2;
    let options = SplitOptions { size, light: "none".parse().unwrap(), ..SplitOptions::default() };
    let summary = split(&full, &mini, &options, &mut |_, _| {}).unwrap();
    assert!(summary.bytes <= size && summary.plan.output_error.is_none());
    let (pinned, linked) =
        (residences(&summary.plan, Residence::Pinned), residences(&summary.plan, Residence::Linked));
    assert!(pinned > 0 && linked > 0 && pinned + linked == LAYERS, "{pinned} and {linked}");
    assert_eq!(run(&mini, Mode::Exact, 9), run(&full, Mode::Exact, 9));
    let refused = try_open(&mini, Mode::Fast).err();
    assert!(matches!(&refused, Some(Error::Mismatch(why)) if why.contains("segment.")), "{refused:?}");
}

#[test]
fn an_error_beyond_the_bound_is_refused() {
    let place = Onnx::new(&layers(WIDTH as i64, LAYERS));
    let (full, mini) = (place.converted(LAYERS), place.path("m.mini.cgraph"));
    let size = fs::metadata(&full).unwrap().len() * 3 / 10;
    for (light, size) in [("auto", size), ("auto", 0), ("q4_0", 0)] {
        let light = light.parse().unwrap();
        let options = SplitOptions { size, light, max_error: Some(1e-4), ..SplitOptions::default() };
        let refused = split(&full, &mini, &options, &mut |_, _| {});
        assert!(matches!(&refused, Err(Error::Limit(why)) if why.contains("--max-error")), "{refused:?}");
        assert!(!mini.exists());
    }
    let options = SplitOptions { light: "q3_k".parse().unwrap(), ..SplitOptions::default() };
    let refused = split(&full, &mini, &options, &mut |_, _| {});
    assert!(matches!(&refused, Err(Error::InvalidArgument(why)) if why.contains("q8_0")), "{refused:?}");
}

#[test]
fn inputs_to_measure_on_are_read() {
    let place = Onnx::new(&layers(WIDTH as i64, LAYERS));
    let (full, mini) = (place.converted(LAYERS), place.path("m.mini.cgraph"));
    let array = |name: &str, rows: u64, columns: u64| {
        let path = place.path(name);
        let mut writer = NpyWriter::create(&SystemDisk, &path, &[rows, columns]).unwrap();
        writer.push(&(0..(rows * columns) as usize).map(noise(rows)).collect::<Vec<f32>>()).unwrap();
        writer.finish().unwrap();
        path.display().to_string()
    };
    let (good, other, wrong) =
        (array("a.npy", 4, WIDTH), array("b.npy", 9, WIDTH), array("c.npy", 4, WIDTH + 1));
    let measured = |calibrate: String| {
        let options = SplitOptions { calibrate: Some(calibrate), ..SplitOptions::default() };
        split(&full, &mini, &options, &mut |_, _| {}).map(|summary| summary.plan.output_error.unwrap())
    };
    let one = measured(format!("x={good}")).unwrap();
    let two = measured(format!("x={good}\nx={other}\n")).unwrap();
    assert!(one > 0.0 && two > 0.0 && one != two, "{one} {two}");
    for bad in [format!("y={good}"), format!("x={wrong}"), good.clone(), "x=no-such-file.npy".into()] {
        let refused = measured(bad.clone());
        assert!(refused.is_err(), "{bad}: {refused:?}");
    }
}

#[test]
fn a_damaged_mini_is_rebuilt_as_it_was() {
    let place = Onnx::new(&layers(WIDTH as i64, LAYERS));
    let (full, mini) = (place.converted(LAYERS), place.path("m.mini.cgraph"));
    split(&full, &mini, &SplitOptions::default(), &mut |_, _| {}).unwrap();
    let options = VerifyOptions { deep: true, ..VerifyOptions::default() };
    let sound = fs::read(&mini).unwrap();
    let mut damaged = sound.clone();
    damaged[70_000] ^= 1;
    fs::write(&mini, &damaged).unwrap();
    let found = check(&mini, &options, false, &mut |_, _| {}).unwrap();
    assert_eq!(found.verified.problems.len(), 1, "{found:?}");
    let mended = check(&mini, &options, true, &mut |_, _| {}).unwrap();
    assert!(mended.repaired && mended.verified.problems.is_empty(), "{mended:?}");
    assert!(fs::read(&mini).unwrap() == sound, "the same plan gives the same file");
}

/// A table, a convolution and a transposed product.
fn other_operators() -> ModelProto {
    let scaled = |seed: u64, by: f32| {
        let noise = noise(seed);
        move |i: usize| noise(i) * by
    };
    let nodes = vec![
        node("Gather", &["table", "ids"], &["rows"], vec![]),
        node("Reshape", &["rows", "image"], &["pixels"], vec![]),
        node(
            "Conv",
            &["pixels", "kernel", "shift"],
            &["features"],
            vec![AttributeProto {
                name: Some("pads".into()),
                ints: vec![1, 1, 1, 1],
                r#type: Some(7),
                ..AttributeProto::default()
            }],
        ),
        node("Flatten", &["features"], &["flat"], vec![int("axis", 1)]),
        node("Gemm", &["flat", "last", "bias"], &["y"], vec![int("transB", 1)]),
    ];
    let weights = vec![
        floats("table", &[500, 64], scaled(1, 1.0)),
        floats("kernel", &[128, 16, 3, 3], scaled(2, 0.1)),
        floats("shift", &[128], scaled(3, 0.1)),
        floats("last", &[40, 2048], scaled(4, 0.03)),
        floats("bias", &[40], scaled(5, 0.1)),
        ints("image", &[4], &[1, 16, 4, 4]),
    ];
    let inputs = vec![info("ids", tensor_type(ElementType::Int64, Some(&[4])))];
    model(nodes, inputs, vec![info("y", tensor_type(ElementType::Float32, Some(&[1, 40])))], weights)
}

#[test]
fn tables_convolutions_and_transposed_products_have_light_forms() {
    let place = Onnx::new(&other_operators());
    let ids: Vec<u8> = [3i64, 77, 250, 499].iter().flat_map(|id| id.to_le_bytes()).collect();
    let view = capsulegraph::onnx::value::TensorView {
        element: ElementType::Int64,
        shape: &[4],
        data: capsulegraph::onnx::value::TensorData::Bytes(&ids),
    };
    let input = capsulegraph::onnx::value::Input::Tensor(view);
    let answer = |path: &Path, mode| {
        floats_of(&try_open(path, mode).unwrap().run(&[("ids", input)], &[], None).unwrap()[0])
    };
    for capsules in [1, 1000] {
        let (full, mini) = (place.converted(capsules), place.path("m.mini.cgraph"));
        split(&full, &mini, &SplitOptions::default(), &mut |_, _| {}).unwrap();
        let model = try_open(&mini, Mode::Fast).unwrap();
        let tensors = model.store().manifest().capsules.iter().flat_map(|capsule| &capsule.tensors);
        let mut names: Vec<&str> = tensors.map(|tensor| tensor.name.as_str()).collect();
        names.sort_unstable();
        let light =
            ["kernel.int8", "kernel.scales", "last.q8_0", "last.scales", "table.int8", "table.scales"];
        assert_eq!(names, light);
        let found = error(&answer(&mini, Mode::Fast), &answer(&full, Mode::Exact));
        assert!(found > 0.0 && found < 0.02, "{found}");
    }
}

#[test]
fn a_conversion_makes_the_mini_that_it_can() {
    let place = Onnx::new(&layers(WIDTH as i64, 2));
    let source = place.path("m.onnx");
    let (convert, options) = (ConvertOptions::default(), SplitOptions::default());
    let targets = Targets::new(&source, None, None, false);
    let made = produce(&source, &targets, &convert, &options, &mut |_, _, _| {}).unwrap();
    assert!(made.mini.is_some() && made.without_mini.is_none() && place.path("m.mini.cgraph").exists());

    // Weights that are too small to be held otherwise.
    let place = Onnx::new(&layers(8, 2));
    let source = place.path("m.onnx");
    let unnamed = Targets::new(&source, None, None, false);
    let made = produce(&source, &unnamed, &convert, &options, &mut |_, _, _| {}).unwrap();
    assert!(made.mini.is_none() && made.without_mini.unwrap().contains("light form"));
    let named = Targets::new(&source, None, Some(&place.path("a.mini.cgraph")), false);
    let refused = produce(&source, &named, &convert, &options, &mut |_, _, _| {});
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
}
