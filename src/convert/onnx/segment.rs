//! Capsules of a graph: which nodes, initializers and values each has.

use std::collections::{HashMap, HashSet};

use super::cut::{CutGraph, CutNode, CutOptions, cut};
use super::graph::{Graph, Initializer};
use super::proto::{ValueInfoProto, dimension, type_proto};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;

/// Nodes and initializers of all capsules at most, copies of constant ones counted; and capsules.
const MAX_PARTS: usize = 4 << 20;
const MAX_CAPSULES: usize = 1 << 20;
/// Bytes of a value of which the model states no type.
const UNKNOWN: u64 = 4096;

/// What one capsule has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its nodes in the order of computation; constant ones may be in other capsules too.
    pub nodes: Vec<usize>,
    /// The values that are initializers and that its nodes read, in the order of first use.
    pub initializers: Vec<usize>,
    /// Values that others give it, in the order of first use.
    pub inputs: Vec<usize>,
    /// Values that it gives to others, in the order of computation.
    pub outputs: Vec<usize>,
}

/// Cuts `graph` into capsules.
///
/// # Errors
/// [`Error::Limit`] where the capsules would have too many nodes.
pub fn segments(graph: &Graph, options: &CutOptions) -> Result<Vec<Segment>> {
    let cuttable: Vec<usize> = (0..graph.nodes.len()).filter(|n| !graph.nodes[*n].constant).collect();
    let capsules = options.capsules.map(|n| n.min(MAX_CAPSULES));
    let ranges = cut(&cut_graph(graph, &cuttable), &CutOptions { capsules, ..*options });
    let mut all = Vec::with_capacity(ranges.len());
    let mut total = 0usize;
    for range in ranges {
        let mut filling = Filling::new(graph);
        for node in &cuttable[range] {
            filling.add_node(*node)?;
        }
        total = total.saturating_add(filling.parts());
        if total > MAX_PARTS {
            return Err(Error::Limit(format!(
                "{} capsules would have more than {MAX_PARTS} nodes and initializers; ask for fewer",
                all.len() + 1
            )));
        }
        all.push(filling.segment);
    }
    constant_outputs(graph, &mut all)?;
    for segment in &mut all {
        segment.nodes.sort_unstable();
    }
    ports(graph, &mut all);
    Ok(all)
}

/// The graph as the planner sees it: nodes that can be cut from their neighbours.
fn cut_graph(graph: &Graph, cuttable: &[usize]) -> CutGraph {
    let mut seen = vec![false; graph.values.len()];
    let mut nodes = Vec::with_capacity(cuttable.len());
    for number in cuttable {
        let node = &graph.nodes[*number];
        let mut weight = 0u64;
        let mut stack = node.reads.clone();
        while let Some(value) = stack.pop() {
            if std::mem::replace(&mut seen[value], true) {
                continue;
            }
            let known = &graph.values[value];
            if let Some(Initializer::Weight(w)) = known.initializer.map(|i| &graph.initializers[i]) {
                weight = weight.saturating_add(w.len);
            }
            if let Some(maker) = known.maker.filter(|maker| graph.nodes[*maker].constant) {
                stack.extend(&graph.nodes[maker].reads);
            }
        }
        let carried = |value: &&usize| {
            let value = &graph.values[**value];
            value.maker.is_some_and(|maker| !graph.nodes[maker].constant)
        };
        let reads = node.reads.iter().filter(carried).copied().collect();
        nodes.push(CutNode { reads, makes: node.makes.clone(), weight });
    }
    let values = (0..graph.values.len()).map(|v| graph.type_of(v).and_then(value_bytes).unwrap_or(UNKNOWN));
    CutGraph { nodes, values: values.collect() }
}

/// Bytes of a value by its stated type, dimensions that are open counted as 1.
fn value_bytes(info: &ValueInfoProto) -> Option<u64> {
    let type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()? else { return None };
    let element = ElementType::from_onnx(tensor.elem_type())?;
    let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match dim.value {
        Some(dimension::Value::DimValue(n)) => u64::try_from(n).unwrap_or(1),
        _ => 1,
    });
    let shape: Vec<u64> = dims.collect();
    element.tensor_bytes(&shape)
}

/// A capsule under construction.
struct Filling<'a> {
    graph: &'a Graph,
    segment: Segment,
    /// Constant nodes and initializers that it has.
    nodes: HashSet<usize>,
    values: HashSet<usize>,
}

impl<'a> Filling<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self::of(graph, Segment::default())
    }

    fn of(graph: &'a Graph, segment: Segment) -> Self {
        let nodes = segment.nodes.iter().copied().collect();
        let values = segment.initializers.iter().copied().collect();
        Self { graph, segment, nodes, values }
    }

    /// Adds a node and the constant nodes and initializers that it is computed from.
    fn add_node(&mut self, node: usize) -> Result<()> {
        if self.nodes.insert(node) {
            self.segment.nodes.push(node);
            let reads = &self.graph.nodes[node].reads;
            reads.iter().try_for_each(|value| self.add_constant(*value))?;
        }
        Ok(())
    }

    /// Adds what makes `value`, where it is an initializer or made by constant nodes. Without recursion: chains are as long
    /// as their author likes.
    fn add_constant(&mut self, value: usize) -> Result<()> {
        let graph = self.graph;
        let mut stack = vec![value];
        while let Some(value) = stack.pop() {
            let known = &graph.values[value];
            if known.initializer.is_some() && self.values.insert(value) {
                self.segment.initializers.push(value);
            }
            if let Some(maker) = known.maker.filter(|maker| graph.nodes[*maker].constant)
                && self.nodes.insert(maker)
            {
                self.segment.nodes.push(maker);
                stack.extend(graph.nodes[maker].reads.iter().rev());
            }
            if self.parts() > MAX_PARTS {
                return Err(Error::Limit(format!(
                    "a capsule would have more than {MAX_PARTS} nodes and initializers"
                )));
            }
        }
        Ok(())
    }

    fn parts(&self) -> usize {
        self.segment.nodes.len() + self.segment.initializers.len()
    }
}

/// Outputs of the graph that are constants are made by the first capsule that has them anyway, else by the last.
fn constant_outputs(graph: &Graph, all: &mut [Segment]) -> Result<()> {
    unused_defaults(graph, all);
    let constants = |output: &&usize| !graph.values[**output].given && graph.is_constant(**output);
    let outputs: Vec<usize> = graph.outputs.iter().filter(constants).copied().collect();
    if outputs.is_empty() {
        return Ok(());
    }
    let nodes: HashSet<usize> = all.iter().flat_map(|s| &s.nodes).copied().collect();
    let initializers: HashSet<usize> = all.iter().flat_map(|s| &s.initializers).copied().collect();
    let lacking = outputs.into_iter().filter(|output| match graph.values[*output].maker {
        Some(maker) => !nodes.contains(&maker),
        None => !initializers.contains(output),
    });
    let Some(last) = all.last_mut() else { return Ok(()) };
    let mut filling = Filling::of(graph, std::mem::take(last));
    for output in lacking {
        filling.add_constant(output)?;
    }
    *last = filling.segment;
    Ok(())
}

/// Defaults of inputs that no node reads stay in the last capsule: without them the inputs would have to be given.
fn unused_defaults(graph: &Graph, all: &mut [Segment]) {
    let used: HashSet<usize> = all.iter().flat_map(|s| &s.initializers).copied().collect();
    let defaults = graph.values.iter().enumerate().filter(|(_, v)| v.given && v.initializer.is_some());
    let unused = defaults.map(|(number, _)| number).filter(|number| !used.contains(number));
    if let Some(last) = all.last_mut() {
        last.initializers.extend(unused);
    }
}

/// Finds what capsules give to each other.
fn ports(graph: &Graph, all: &mut [Segment]) {
    // The capsule that gives each value that is not the same everywhere.
    let mut giver: HashMap<usize, usize> = HashMap::new();
    for (number, segment) in all.iter().enumerate() {
        let nodes = segment.nodes.iter().map(|node| &graph.nodes[*node]);
        for value in nodes.filter(|node| !node.constant).flat_map(|node| &node.makes) {
            giver.insert(*value, number);
        }
    }
    let mut wanted = HashSet::new();
    for (number, segment) in all.iter_mut().enumerate() {
        let mut seen = HashSet::new();
        for value in segment.nodes.iter().flat_map(|node| &graph.nodes[*node].reads) {
            let from_others = giver.get(value).is_some_and(|giver| *giver != number);
            if (from_others || graph.values[*value].given) && seen.insert(*value) {
                segment.inputs.push(*value);
            }
            if from_others {
                wanted.insert(*value);
            }
        }
    }
    for output in graph.outputs.iter().filter(|output| !graph.values[**output].given) {
        wanted.insert(*output);
    }
    for segment in all {
        let made = segment.nodes.iter().flat_map(|node| &graph.nodes[*node].makes);
        let given = segment.initializers.iter().chain(made);
        segment.outputs = given.filter(|value| wanted.remove(value)).copied().collect();
        if segment.outputs.is_empty() {
            // Nobody needs what its nodes make; a graph that gives nothing could not be run.
            let last = segment.nodes.iter().rev().map(|node| &graph.nodes[*node]).find(|n| !n.constant);
            segment.outputs = last.map(|node| node.makes.clone()).unwrap_or_default();
        }
    }
}
