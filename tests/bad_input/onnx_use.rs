//! What is done with every damaged ONNX model, and the model that is damaged.

use std::path::Path;
use std::sync::Arc;

use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::cut::CutOptions;
use capsulegraph::convert::onnx::export::{ExportOptions, export, export_capsule};
use capsulegraph::convert::onnx::import::OnnxModel;
use capsulegraph::store::mapped::MappedFile;

use crate::disk::MemoryDisk;
use crate::onnx_models::{self as models, external, node, port};
use crate::under_test::{Reached, expected, view};

/// Converts a model, and where that works takes the file apart again.
pub fn use_onnx(bytes: impl Into<Arc<[u8]>>) -> Reached {
    let disk = MemoryDisk::default();
    disk.put("m.onnx", bytes);
    disk.put("w.bin", vec![0; 8192]);
    let cut = CutOptions { capsules: Some(3), ..CutOptions::default() };
    let options = ConvertOptions { cut, disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    let (source, target) = (Path::new("m.onnx"), Path::new("m.cgraph"));
    let opened = match OnnxModel::open(source, &[target], &options) {
        Ok(opened) => opened,
        Err(error) => {
            expected(&error);
            return Reached::Refused;
        }
    };
    if let Err(error) = opened.convert(source, target, &options, &mut |_, _| {}) {
        expected(&error);
        assert!(disk.get(target).is_none(), "a failed conversion left a file");
        return Reached::Opened;
    }
    let bytes = disk.get(target).unwrap();
    let file =
        MappedFile::open(view(&bytes, bytes.len())).expect("what the converter wrote cannot be opened");
    let out = ExportOptions { disk: Arc::new(disk.clone()), ..ExportOptions::default() };
    export(target, Path::new("back.onnx"), &out, &mut |_, _| {}).expect("it cannot be exported");
    for capsule in &file.contents().manifest.capsules {
        export_capsule(&file, &capsule.id, Path::new("part.onnx"), &out, &mut |_, _| {}).unwrap();
    }
    // What comes out goes in again.
    let again = OnnxModel::open(Path::new("back.onnx"), &[], &options).and_then(|opened| {
        opened.convert(Path::new("back.onnx"), Path::new("again.cgraph"), &options, &mut |_, _| {})
    });
    again.unwrap_or_else(|error| panic!("what was exported cannot be converted: {error}"));
    Reached::Computed
}

/// The model that is damaged: with external data beside what [`models::varied`] has.
pub fn sound() -> Vec<u8> {
    let mut sound = models::varied();
    let graph = sound.graph.as_mut().unwrap();
    graph.initializer.push(external(models::matrix("outside", 32, 32, 9), "w.bin", 4096, Some(4096)));
    graph.node.push(node("MatMul", &["y", "outside"], &["z"]));
    graph.output.push(port("z", &[0, 32]));
    models::bytes(&sound)
}
