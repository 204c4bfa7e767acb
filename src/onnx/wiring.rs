//! How the capsules of a model hang together: values as numbers, which capsules are computed by one session, and which of
//! these a run needs.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::container::manifest::Capsule;
use crate::error::{Error, Result};
use crate::graph::onnx::OnnxInfo;

/// Neighbouring capsules that one session computes, often one alone; what they read and make, as numbers of values.
#[derive(Debug)]
pub(super) struct Unit {
    pub capsules: Range<usize>,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
}

/// The values of a model, and who makes and reads them.
#[derive(Debug)]
pub(super) struct Wiring {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
    pub units: Vec<Unit>,
    /// The model's outputs, in its order.
    pub outputs: Vec<usize>,
    /// The unit that makes a value that others read; `None` of the model's inputs.
    makers: Vec<Option<usize>>,
}

/// What a run does.
#[derive(Debug)]
pub(super) struct Steps {
    /// The units that are needed, in order.
    pub units: Vec<usize>,
    /// For each step the values that nobody needs after it.
    pub freed: Vec<Vec<usize>>,
}

impl Wiring {
    /// Of the capsules of a file, whose connections were checked when it was opened; neighbours whose weights are at most
    /// `joined_bytes` together, and that the same of the model's outputs need, are one unit. The model's inputs are the first
    /// values, in its order.
    pub fn new(info: &OnnxInfo, capsules: &[Capsule], joined_bytes: u64) -> Result<Self> {
        let single = Self::of(info, capsules, (0..capsules.len()).map(|index| index..index + 1).collect())?;
        let ranges = joined(capsules, &single.users(), joined_bytes);
        if ranges.len() == capsules.len() { Ok(single) } else { Self::of(info, capsules, ranges) }
    }

    /// Of capsules of which these ranges are units.
    fn of(info: &OnnxInfo, capsules: &[Capsule], units: Vec<Range<usize>>) -> Result<Self> {
        let mut wiring = Self {
            names: Vec::new(),
            numbers: HashMap::new(),
            units: Vec::new(),
            outputs: Vec::new(),
            makers: Vec::new(),
        };
        for (number, port) in info.inputs.iter().enumerate() {
            if wiring.number_of(&port.name) != number {
                return Err(Error::Mismatch(format!("the model has two inputs \"{}\"", port.name)));
            }
        }
        for unit in units {
            wiring.add(&capsules[unit.clone()], unit);
        }
        for port in &info.outputs {
            let number = wiring.numbers.get(&port.name).copied();
            wiring.outputs.push(
                number.ok_or_else(|| Error::Internal(format!("nothing makes output \"{}\"", port.name)))?,
            );
        }
        wiring.drop_inner_outputs();
        Ok(wiring)
    }

    /// Adds a unit, which makes all that its capsules make and reads what none of them makes.
    fn add(&mut self, capsules: &[Capsule], range: Range<usize>) {
        let mut unit = Unit { capsules: range, inputs: Vec::new(), outputs: Vec::new() };
        let (mut made, mut read) = (HashSet::new(), HashSet::new());
        for capsule in capsules {
            let inputs: Vec<usize> = capsule.inputs.iter().map(|name| self.number_of(name)).collect();
            unit.inputs
                .extend(inputs.into_iter().filter(|value| !made.contains(value) && read.insert(*value)));
            for name in &capsule.outputs {
                let output = self.number_of(name);
                made.insert(output);
                unit.outputs.push(output);
                self.makers[output] = Some(self.units.len());
            }
        }
        self.units.push(unit);
    }

    /// Of units of several capsules, leaves only the outputs that others read or the model gives. One without any keeps its
    /// last: a graph that gives nothing could not be run.
    fn drop_inner_outputs(&mut self) {
        let read: HashSet<usize> =
            self.units.iter().flat_map(|unit| &unit.inputs).chain(&self.outputs).copied().collect();
        for unit in self.units.iter_mut().filter(|unit| unit.capsules.len() > 1) {
            let last = unit.outputs.last().copied();
            unit.outputs.retain(|output| read.contains(output));
            if unit.outputs.is_empty() {
                unit.outputs.extend(last);
            }
        }
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

    /// For each unit a number that stands for the set of the model's outputs that need it.
    fn users(&self) -> Vec<u64> {
        let mut users = vec![0u64; self.units.len()];
        for output in &self.outputs {
            for (user, _) in users.iter_mut().zip(self.needed(&[*output])).filter(|(_, needed)| *needed) {
                // Numbers of sets collide as rarely as random ones do, and then only too many capsules are joined.
                *user =
                    user.wrapping_add(*output as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            }
        }
        users
    }

    /// Which units are needed for the values `wanted`.
    fn needed(&self, wanted: &[usize]) -> Vec<bool> {
        let mut needed = vec![false; self.units.len()];
        let mut asked: Vec<usize> = wanted.to_vec();
        while let Some(value) = asked.pop() {
            if let Some(maker) = self.makers.get(value).copied().flatten()
                && !std::mem::replace(&mut needed[maker], true)
            {
                asked.extend(&self.units[maker].inputs);
            }
        }
        needed
    }

    /// What is needed for the values `wanted`, which are themselves kept.
    pub fn steps(&self, wanted: &[usize]) -> Steps {
        let needed = self.needed(wanted);
        let units: Vec<usize> = (0..self.units.len()).filter(|index| needed[*index]).collect();
        let mut last: Vec<Option<usize>> = vec![None; self.len()];
        for (step, index) in units.iter().enumerate() {
            let unit = &self.units[*index];
            // What nobody reads goes after the step that made it.
            unit.inputs.iter().chain(&unit.outputs).for_each(|value| last[*value] = Some(step));
        }
        wanted.iter().for_each(|value| last[*value] = None);
        let mut freed = vec![Vec::new(); units.len()];
        for (value, step) in last.into_iter().enumerate() {
            if let Some(step) = step {
                freed[step].push(value);
            }
        }
        Steps { units, freed }
    }
}

/// The runs of neighbours whose weights are at most `most` bytes together, and whose `users` are the same. Lengths in the full file count, so that a mini's
/// capsules are joined as its full file's: how graphs are optimised, and with it the results' last bits, depends on it.
fn joined(capsules: &[Capsule], users: &[u64], most: u64) -> Vec<Range<usize>> {
    let full_len = |capsule: &Capsule| match (&capsule.link, capsule.extent) {
        (Some(link), _) => link.len,
        (None, extent) => extent.map_or(0, |extent| extent.len),
    };
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0u64;
    for (index, capsule) in capsules.iter().enumerate() {
        let len = full_len(capsule);
        match ranges.last_mut() {
            Some(range)
                if most > 0 && bytes.saturating_add(len) <= most && users[range.start] == users[index] =>
            {
                range.end = index + 1;
                bytes += len;
            }
            _ => {
                ranges.push(index..index + 1);
                bytes = len;
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::manifest::{Extent, Link};
    use crate::graph::onnx::{OnnxKind, OnnxPort};

    fn port(name: &str) -> OnnxPort {
        OnnxPort {
            name: name.into(),
            kind: OnnxKind::Tensor,
            type_name: None,
            element: None,
            shape: None,
            optional: false,
        }
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
        let wiring = Wiring::new(&info, &capsules, 0).unwrap();
        let names = |values: &[usize]| values.iter().map(|v| wiring.name(*v)).collect::<Vec<_>>().join(" ");
        let all = wiring.steps(&wiring.outputs);
        assert_eq!(all.units, [0, 1, 2]);
        assert_eq!(all.freed.iter().map(|f| names(f)).collect::<Vec<_>>(), ["", "b", "x a"]);
        let one = wiring.steps(&wiring.outputs[..1]);
        assert_eq!(one.units, [0, 2]);
        assert_eq!(one.freed.iter().map(|f| names(f)).collect::<Vec<_>>(), ["b", "x a"]);
        assert!(wiring.steps(&[0]).units.is_empty());
    }
    #[test]
    fn small_neighbours_are_one_unit_that_gives_what_others_need() {
        let info =
            OnnxInfo { ir_version: 8, opsets: Vec::new(), inputs: vec![port("x")], outputs: vec![port("y")] };
        let mut capsules = [
            capsule("0", &["x"], &["a", "b"]),
            capsule("1", &["a", "x"], &["c", "d"]),
            capsule("2", &["c", "b"], &["e"]),
            capsule("3", &["e", "d"], &["y"]),
        ];
        for (capsule, len) in capsules.iter_mut().zip([60, 40, 100, 1]) {
            capsule.extent = Some(Extent { offset: 0, len });
        }
        let wiring = Wiring::new(&info, &capsules, 100).unwrap();
        let names = |values: &[usize]| values.iter().map(|v| wiring.name(*v)).collect::<Vec<_>>().join(" ");
        let units = |unit: &Unit| (unit.capsules.clone(), names(&unit.inputs), names(&unit.outputs));
        let found: Vec<_> = wiring.units.iter().map(units).collect();
        let wanted =
            |range: Range<usize>, inputs: &str, outputs: &str| (range, inputs.into(), outputs.into());
        assert_eq!(found, [wanted(0..2, "x", "b c d"), wanted(2..3, "c b", "e"), wanted(3..4, "e d", "y")]);
        // The last one's own length does not count where the full file's is known.
        capsules[3].link = Some(Link { offset: 0, len: 1, xxh3: String::new() });
        capsules[3].extent = Some(Extent { offset: 0, len: 1000 });
        assert_eq!(joined(&capsules, &[7; 4], 101), [0..2, 2..4]);
        assert_eq!(joined(&capsules, &[7; 4], 1000).len(), 1);
        assert_eq!(joined(&capsules, &[7; 4], 0).len(), 4);
        // What only one of two outputs needs stays apart: whoever asks for the other need not feed it.
        let two = OnnxInfo { outputs: vec![port("y"), port("c")], ..info };
        let apart = Wiring::new(&two, &capsules, 1000).unwrap();
        let ranges: Vec<_> = apart.units.iter().map(|unit| unit.capsules.clone()).collect();
        assert_eq!(ranges, [0..2, 2..4]);
    }
}
