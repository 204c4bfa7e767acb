//! Running ONNX models.

use std::path::Path;

use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions};
use capsulegraph::onnx::value::{Input, TensorData, TensorView, Value};
use capsulegraph::store::Origin;

use crate::table::Case;
use crate::{Failure, Work, check, open_options};

/// A tensor of the table.
struct Tensor {
    name: String,
    element: ElementType,
    shape: Vec<u64>,
    values: Vec<String>,
    /// Little-endian, of all but strings.
    bytes: Vec<u8>,
}

fn bytes_of(element: ElementType, value: &str) -> Option<Vec<u8>> {
    Some(match element {
        ElementType::Float32 => value.parse::<f32>().ok()?.to_le_bytes().to_vec(),
        ElementType::Int32 => value.parse::<i32>().ok()?.to_le_bytes().to_vec(),
        ElementType::Int64 => value.parse::<i64>().ok()?.to_le_bytes().to_vec(),
        ElementType::String => Vec::new(),
        _ => return None,
    })
}

impl Tensor {
    /// NAME TYPE SHAPE VALUES.
    fn parse(line: &str) -> Result<Self, String> {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let [name, kind, shape, values] = parts.as_slice() else {
            return Err(format!("{line:?} is no tensor"));
        };
        let element = match *kind {
            "float32" => ElementType::Float32,
            "int32" => ElementType::Int32,
            "int64" => ElementType::Int64,
            "string" => ElementType::String,
            other => return Err(format!("{name}: this runner does not know the type {other}")),
        };
        let extents: Result<Vec<u64>, _> = match *shape {
            "-" => Ok(Vec::new()),
            shape => shape.split(',').map(str::parse).collect(),
        };
        let shape = extents.map_err(|_| format!("{name}: {shape:?} is no shape"))?;
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        let bytes: Option<Vec<Vec<u8>>> = values.iter().map(|value| bytes_of(element, value)).collect();
        let bytes = bytes.ok_or_else(|| format!("{name}: values are not of type {kind}"))?.concat();
        Ok(Self { name: (*name).to_owned(), element, shape, values, bytes })
    }

    /// Holds an output against this one.
    fn compare(&self, found: &Value, tolerance: f64) -> Result<(), String> {
        let name = &self.name;
        check(&format!("{name}'s type"), &found.element(), &Some(self.element))?;
        check(&format!("{name}'s shape"), &found.shape(), &self.shape.as_slice())?;
        if self.element == ElementType::String {
            let strings = found.strings().map_err(|e| e.to_string())?;
            let wanted: Vec<Vec<u8>> = self.values.iter().map(|value| value.as_bytes().to_vec()).collect();
            return check(name, &strings, &wanted.as_slice());
        }
        let bytes = found.bytes().map_err(|e| e.to_string())?;
        let difference = if self.element == ElementType::Float32 {
            let floats = |bytes: &[u8]| -> Vec<f64> {
                bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
            };
            let pairs = floats(bytes).into_iter().zip(floats(&self.bytes));
            // A value that is not a number differs more than any tolerance.
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| if d <= most { most } else { d })
        } else if bytes == self.bytes {
            0.0
        } else {
            f64::INFINITY
        };
        if difference <= tolerance { Ok(()) } else { Err(format!("{name} differs by {difference}")) }
    }
}

pub fn run(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let (file, store) =
        (folder.join(case.take("file")?), open_options("auto", case.number("memory")? as u64)?);
    let tolerance = case.optional("tolerance").unwrap_or_else(|| "0".into());
    let tolerance: f64 = tolerance.parse().map_err(|_| format!("tolerance is {tolerance:?}"))?;
    let tensors = |lines: Vec<String>| lines.iter().map(|line| Tensor::parse(line)).collect();
    let inputs: Result<Vec<Tensor>, String> = tensors(case.all("input"));
    let outputs: Result<Vec<Tensor>, String> = tensors(case.all("output"));
    let (inputs, outputs) = (inputs?, outputs?);
    Ok(Box::new(move || -> Result<(), Failure> {
        let model = OnnxModel::open(&Origin::Path(file), &OnnxOptions { store, ..OnnxOptions::default() })?;
        let strings: Vec<Vec<&[u8]>> =
            inputs.iter().map(|t| t.values.iter().map(String::as_bytes).collect()).collect();
        let given: Vec<(&str, Input<'_>)> = inputs
            .iter()
            .zip(&strings)
            .map(|(t, strings)| {
                let data = match t.element {
                    ElementType::String => TensorData::Strings(strings),
                    _ => TensorData::Bytes(&t.bytes),
                };
                let view = TensorView { element: t.element, shape: &t.shape, data };
                (t.name.as_str(), Input::Tensor(view))
            })
            .collect();
        let names: Vec<&str> = outputs.iter().map(|t| t.name.as_str()).collect();
        let found = model.run(&given, &names, None)?;
        for (wanted, found) in outputs.iter().zip(&found) {
            wanted.compare(found, tolerance)?;
        }
        Ok(())
    }))
}
