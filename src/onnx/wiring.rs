//! How the capsules of a model hang together: values as numbers, and which capsules a run needs.

use std::collections::HashMap;

use crate::container::manifest::Capsule;
use crate::error::{Error, Result};
use crate::graph::onnx::OnnxInfo;

/// What a capsule reads and makes, as numbers of values.
#[derive(Debug)]
pub(super) struct Ports {
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
}

/// The values of a model, and who makes and reads them.
#[derive(Debug)]
pub(super) struct Wiring {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
    pub capsules: Vec<Ports>,
    /// The model's outputs, in its order.
    pub outputs: Vec<usize>,
    /// The capsule that makes a value; `None` of the model's inputs.
    makers: Vec<Option<usize>>,
}

/// What a run does.
#[derive(Debug)]
pub(super) struct Steps {
    /// The capsules that are needed, in order.
    pub capsules: Vec<usize>,
    /// For each step the values that nobody needs after it.
    pub freed: Vec<Vec<usize>>,
}

impl Wiring {
    /// Of the capsules of a file, whose connections were checked when it was opened. The model's inputs are the first values,
    /// in its order.
    pub fn new(info: &OnnxInfo, capsules: &[Capsule]) -> Result<Self> {
        let mut wiring = Self {
            names: Vec::new(),
            numbers: HashMap::new(),
            capsules: Vec::with_capacity(capsules.len()),
            outputs: Vec::new(),
            makers: Vec::new(),
        };
        for (number, port) in info.inputs.iter().enumerate() {
            if wiring.number_of(&port.name) != number {
                return Err(Error::Mismatch(format!("the model has two inputs \"{}\"", port.name)));
            }
        }
        for (index, capsule) in capsules.iter().enumerate() {
            let inputs = capsule.inputs.iter().map(|name| wiring.number_of(name)).collect();
            let outputs: Vec<usize> = capsule.outputs.iter().map(|name| wiring.number_of(name)).collect();
            for output in &outputs {
                wiring.makers[*output] = Some(index);
            }
            wiring.capsules.push(Ports { inputs, outputs });
        }
        for port in &info.outputs {
            let number = wiring.numbers.get(&port.name).copied();
            wiring.outputs.push(
                number.ok_or_else(|| Error::Internal(format!("nothing makes output \"{}\"", port.name)))?,
            );
        }
        Ok(wiring)
    }

    fn number_of(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len();
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        self.makers.push(None);
        number
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The name of a value.
    pub fn name(&self, value: usize) -> &str {
        self.names.get(value).map_or("", String::as_str)
    }

    /// What is needed for the values `wanted`, which are themselves kept.
    pub fn steps(&self, wanted: &[usize]) -> Steps {
        let mut needed = vec![false; self.capsules.len()];
        let mut asked: Vec<usize> = wanted.to_vec();
        while let Some(value) = asked.pop() {
            if let Some(maker) = self.makers.get(value).copied().flatten()
                && !std::mem::replace(&mut needed[maker], true)
            {
                asked.extend(&self.capsules[maker].inputs);
            }
        }
        let capsules: Vec<usize> = (0..self.capsules.len()).filter(|index| needed[*index]).collect();
        let mut last: Vec<Option<usize>> = vec![None; self.len()];
        for (step, index) in capsules.iter().enumerate() {
            let ports = &self.capsules[*index];
            // What nobody reads goes after the step that made it.
            ports.inputs.iter().chain(&ports.outputs).for_each(|value| last[*value] = Some(step));
        }
        wanted.iter().for_each(|value| last[*value] = None);
        let mut freed = vec![Vec::new(); capsules.len()];
        for (value, step) in last.into_iter().enumerate() {
            if let Some(step) = step {
                freed[step].push(value);
            }
        }
        Steps { capsules, freed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::onnx::{OnnxKind, OnnxPort};

    fn port(name: &str) -> OnnxPort {
        OnnxPort { name: name.into(), kind: OnnxKind::Tensor, element: None, shape: None, optional: false }
    }

    fn capsule(id: &str, inputs: &[&str], outputs: &[&str]) -> Capsule {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Capsule {
            id: id.into(),
            kind: "segment".into(),
            inputs: names(inputs),
            outputs: names(outputs),
            extent: None,
            tensors: Vec::new(),
            shared: Vec::new(),
            residence: None,
            link: None,
        }
    }

    #[test]
    fn only_what_is_needed_is_computed_and_values_go_after_their_last_use() {
        let info = OnnxInfo {
            ir_version: 8,
            opsets: Vec::new(),
            inputs: vec![port("x")],
            outputs: vec![port("y"), port("z")],
        };
        let capsules = [
            capsule("0", &["x"], &["a", "b"]),
            capsule("1", &["b"], &["z"]),
            capsule("2", &["a", "x"], &["y"]),
        ];
        let wiring = Wiring::new(&info, &capsules).unwrap();
        let names = |values: &[usize]| values.iter().map(|v| wiring.name(*v)).collect::<Vec<_>>().join(" ");
        let all = wiring.steps(&wiring.outputs);
        assert_eq!(all.capsules, [0, 1, 2]);
        assert_eq!(all.freed.iter().map(|f| names(f)).collect::<Vec<_>>(), ["", "b", "x a"]);
        let one = wiring.steps(&wiring.outputs[..1]);
        assert_eq!(one.capsules, [0, 2]);
        assert_eq!(one.freed.iter().map(|f| names(f)).collect::<Vec<_>>(), ["b", "x a"]);
        assert!(wiring.steps(&[0]).capsules.is_empty());
    }
}
