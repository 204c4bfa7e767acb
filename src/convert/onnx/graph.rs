//! A model's graph made plain: every name resolved, nodes in the order of computation, weights apart from the rest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::calls;
use super::functions::Functions;
use super::proto::{GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};
use super::source::Source;
use super::subgraph::{Hoist, constant_tensor, graphs_of, reads_of};
use super::tensor::{Checked, Weight};
use crate::error::{Error, Result};

/// Version of ONNX's format from which on inputs may have defaults. Before it initializers are listed as inputs too, and are
/// constants all the same.
const DEFAULTS_SINCE: i64 = 4;

/// A model's graph.
#[derive(Debug)]
pub struct Graph {
    /// The model without nodes, initializers and the types of inner values.
    pub head: ModelProto,
    /// The nodes, each behind those whose values it reads.
    pub nodes: Vec<Node>,
    /// The initializers, also those that were Constant nodes or stood in subgraphs.
    pub initializers: Vec<Initializer>,
    /// Every value by number.
    pub values: Vec<Value>,
    /// What the graph gives, in its own order.
    pub outputs: Vec<usize>,
    /// Types that the model states, by name.
    types: HashMap<String, ValueInfoProto>,
}

/// A value of the graph.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// Its name, unique in the graph.
    pub name: String,
    /// Whether whoever runs the model gives it; where it is an initializer too, that is its default.
    pub given: bool,
    /// The initializer that it is.
    pub initializer: Option<usize>,
    /// The node that makes it.
    pub maker: Option<usize>,
}

/// A node with its names resolved.
#[derive(Clone, Debug)]
pub struct Node {
    /// The node.
    pub proto: NodeProto,
    /// Values that it and the graphs in it read.
    pub reads: Vec<usize>,
    /// Values that it makes.
    pub makes: Vec<usize>,
    /// Whether the same bytes come out of it in every run.
    pub constant: bool,
}

/// What an initializer holds.
#[derive(Clone, Debug)]
pub enum Initializer {
    /// A tensor that stays in the graph.
    Inline(Box<TensorProto>),
    /// A sparse tensor, which stays there too.
    Sparse(Box<SparseTensorProto>),
    /// A tensor that capsules hold.
    Weight(Weight),
}

impl Graph {
    /// Checks and resolves the graph of `model`, which `source` was opened as.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the value, node or tensor that is wrong; those of [`Checked::new`].
    pub fn new(source: &mut Source, mut model: ModelProto) -> Result<Self> {
        let file = source.name();
        let ir_version = model.ir_version.unwrap_or_default();
        if ir_version < 1 {
            return Err(Error::malformed(file, "it has no ir_version: it is not an ONNX model"));
        }
        let mut hoist = Hoist::new(source, &model);
        for function in &mut model.functions {
            hoist.function(function)?;
        }
        let Some(mut graph) = model.graph.take() else {
            return Err(Error::malformed(file, "it has no graph"));
        };
        let mut names = Names::new(file);
        names.inputs(&graph, ir_version)?;
        let mut initializers = Vec::new();
        names.initializers(&mut graph, hoist.source(), &mut initializers)?;
        let outputs: Vec<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let given: HashSet<&str> = outputs.iter().map(String::as_str).collect();
        let mut protos = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            let own = node.output.first().filter(|name| !name.is_empty() && !given.contains(name.as_str()));
            if let (Some(name), Some(tensor)) = (own, constant_tensor(&node))
                && let Some(weight) = Checked::new(hoist.source(), tensor)?.weight()
            {
                names.initializer(name, Initializer::Weight(weight.clone()), &mut initializers)?;
            } else {
                hoist.node(&mut node)?;
                protos.push(node);
            }
        }
        for (name, weight) in hoist.found {
            names.initializer(&name, Initializer::Weight(weight), &mut initializers)?;
        }
        calls::check(&names.file, &model.functions, &protos)?;
        let functions = Functions::new(&model.functions);
        let nodes = names.nodes(protos, &functions)?;
        let outputs = names.outputs(&outputs)?;
        let types = types_of(&mut graph);
        model.training_info.clear();
        if ir_version < DEFAULTS_SINCE {
            // Initializers that nothing reads are left out; as inputs alone they would have to be given.
            let read: HashSet<usize> = nodes.iter().flat_map(|n| &n.reads).chain(&outputs).copied().collect();
            graph.input.retain(|input| {
                let number = names.numbers.get(input.name());
                number.is_some_and(|n| names.values[*n].given || read.contains(n))
            });
        }
        model.graph = Some(GraphProto { initializer: Vec::new(), sparse_initializer: Vec::new(), ..graph });
        Ok(Self { head: model, nodes, initializers, values: names.values, outputs, types })
    }

    /// Name and, where the model states it, type of a value.
    #[must_use]
    pub fn described(&self, value: usize) -> ValueInfoProto {
        let name = &self.values[value].name;
        let bare = || ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
        self.types.get(name).cloned().unwrap_or_else(bare)
    }

    /// As [`described`](Self::described), where there is a type.
    #[must_use]
    pub fn type_of(&self, value: usize) -> Option<&ValueInfoProto> {
        self.types.get(&self.values[value].name).filter(|info| info.r#type.is_some())
    }

    /// Whether a value is the same in every run.
    #[must_use]
    pub fn is_constant(&self, value: usize) -> bool {
        let value = &self.values[value];
        match value.maker {
            Some(node) => self.nodes[node].constant,
            None => !value.given,
        }
    }
}

/// The types that a graph states, its value_info taken out of it.
fn types_of(graph: &mut GraphProto) -> HashMap<String, ValueInfoProto> {
    let inner = std::mem::take(&mut graph.value_info);
    let ports = graph.input.iter().chain(&graph.output).cloned();
    // Inputs and outputs last: theirs count.
    inner.into_iter().chain(ports).map(|info| (info.name().to_owned(), info)).collect()
}

/// Values under construction.
struct Names {
    file: String,
    values: Vec<Value>,
    numbers: HashMap<String, usize>,
}

impl Names {
    fn new(file: String) -> Self {
        Self { file, values: Vec::new(), numbers: HashMap::new() }
    }

    fn bad(&self, why: impl Into<String>) -> Error {
        Error::malformed(&self.file, why)
    }

    fn define(&mut self, value: Value) -> Result<usize> {
        let number = self.values.len();
        if value.name.is_empty() {
            return Err(self.bad("an input or initializer of its graph has no name"));
        }
        if self.numbers.insert(value.name.clone(), number).is_some() {
            return Err(self.bad(format!("the value \"{}\" is defined twice", value.name)));
        }
        self.values.push(value);
        Ok(number)
    }

    fn inputs(&mut self, graph: &GraphProto, ir_version: i64) -> Result<()> {
        let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
        let constants: HashSet<&str> = match ir_version {
            DEFAULTS_SINCE.. => Default::default(),
            _ => graph.initializer.iter().chain(sparse).map(TensorProto::name).collect(),
        };
        for input in graph.input.iter().filter(|i| !constants.contains(i.name())) {
            self.define(Value { name: input.name().to_owned(), given: true, ..Value::default() })?;
        }
        Ok(())
    }

    fn initializers(
        &mut self,
        graph: &mut GraphProto,
        source: &mut Source,
        all: &mut Vec<Initializer>,
    ) -> Result<()> {
        for tensor in std::mem::take(&mut graph.initializer) {
            let checked = Checked::new(source, &tensor)?;
            let kept = match checked.weight() {
                Some(weight) => Initializer::Weight(weight.clone()),
                None => Initializer::Inline(Box::new(checked.inlined(source, &tensor)?)),
            };
            self.initializer(tensor.name(), kept, all)?;
        }
        for mut sparse in std::mem::take(&mut graph.sparse_initializer) {
            for part in sparse.values.iter_mut().chain(&mut sparse.indices) {
                *part = Checked::new(source, part)?.inlined(source, part)?;
            }
            let name = sparse.values.as_ref().map(|v| v.name().to_owned()).unwrap_or_default();
            self.initializer(&name, Initializer::Sparse(Box::new(sparse)), all)?;
        }
        Ok(())
    }

    /// Adds an initializer, which may be an input's default.
    fn initializer(
        &mut self,
        name: &str,
        initializer: Initializer,
        all: &mut Vec<Initializer>,
    ) -> Result<()> {
        let number = all.len();
        all.push(initializer);
        match self.numbers.get(name).and_then(|value| self.values.get_mut(*value)) {
            Some(value) if value.given && value.initializer.is_none() => value.initializer = Some(number),
            _ => drop(self.define(Value {
                name: name.to_owned(),
                initializer: Some(number),
                ..Value::default()
            })?),
        }
        Ok(())
    }

    /// Resolves the nodes' names and puts the nodes in order.
    fn nodes(&mut self, protos: Vec<NodeProto>, functions: &Functions) -> Result<Vec<Node>> {
        let mut nodes: Vec<Node> = Vec::with_capacity(protos.len());
        for proto in protos {
            if proto.op_type().is_empty() {
                return Err(self.bad(format!("{} has no operator", label(&proto))));
            }
            // None of its outputs may be left out, and ONNX Runtime reads through null where the first is.
            let split = proto.op_type() == "Split" && matches!(proto.domain(), "" | "ai.onnx");
            if split && proto.output.first().is_some_and(String::is_empty) {
                return Err(self.bad(format!("the first output of {} has no name", label(&proto))));
            }
            let mut makes = Vec::with_capacity(proto.output.len());
            for name in proto.output.iter().filter(|name| !name.is_empty()) {
                makes.push(self.define(Value {
                    name: name.clone(),
                    maker: Some(nodes.len()),
                    ..Value::default()
                })?);
            }
            nodes.push(Node { proto, reads: Vec::new(), makes, constant: false });
        }
        for node in &mut nodes {
            let reads = reads_of(&node.proto).into_iter().map(|name| {
                self.numbers.get(name).copied().ok_or_else(|| {
                    self.bad(format!("{} reads \"{name}\", which nothing makes", label(&node.proto)))
                })
            });
            node.reads = reads.collect::<Result<_>>()?;
        }
        let order = self.order(&nodes)?;
        let mut place = vec![0; nodes.len()];
        order.iter().enumerate().for_each(|(new, old)| place[*old] = new);
        for value in &mut self.values {
            value.maker = value.maker.map(|old| place[old]);
        }
        let mut slots: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
        let mut sorted: Vec<Node> = order.iter().filter_map(|old| slots[*old].take()).collect();
        for number in 0..sorted.len() {
            let node = &sorted[number];
            let known = |value: &usize| match self.values[*value].maker {
                Some(maker) => sorted[maker].constant,
                None => !self.values[*value].given,
            };
            let constant = node.reads.iter().all(known)
                && graphs_of(&node.proto).next().is_none()
                && functions.is_deterministic(&node.proto);
            sorted[number].constant = constant;
        }
        Ok(sorted)
    }

    /// The order of computation: the file's own, where it is one.
    fn order(&self, nodes: &[Node]) -> Result<Vec<usize>> {
        let makers = |node: &Node| {
            let makers = node.reads.iter().filter_map(|value| self.values[*value].maker);
            makers.collect::<Vec<_>>()
        };
        let mut missing = vec![0usize; nodes.len()];
        let mut readers = vec![Vec::new(); nodes.len()];
        for (number, node) in nodes.iter().enumerate() {
            for maker in makers(node) {
                missing[number] += 1;
                readers[maker].push(number);
            }
        }
        let ready = missing.iter().enumerate().filter(|(_, n)| **n == 0).map(|(number, _)| Reverse(number));
        let mut ready: BinaryHeap<_> = ready.collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(Reverse(number)) = ready.pop() {
            order.push(number);
            for reader in &readers[number] {
                missing[*reader] -= 1;
                if missing[*reader] == 0 {
                    ready.push(Reverse(*reader));
                }
            }
        }
        let Some(start) = missing.iter().position(|n| *n > 0) else { return Ok(order) };
        // Each node that is left waits for another such node: going back arrives in the cycle.
        let mut path = vec![start];
        let mut seen = HashMap::from([(start, 0)]);
        loop {
            let last = path[path.len() - 1];
            let Some(before) = makers(&nodes[last]).into_iter().find(|maker| missing[*maker] > 0) else {
                return Err(Error::Internal("nodes that wait for none were left over".into()));
            };
            if let Some(first) = seen.insert(before, path.len()) {
                return Err(self.cycle(path[first..].iter().rev().map(|number| &nodes[*number])));
            }
            path.push(before);
        }
    }

    fn cycle<'n>(&self, nodes: impl ExactSizeIterator<Item = &'n Node>) -> Error {
        /// Nodes of a cycle that are named.
        const NAMED: usize = 6;
        let count = nodes.len();
        let mut named: Vec<String> = nodes.take(NAMED).map(|node| label(&node.proto)).collect();
        if count > NAMED {
            named.push(format!("{} more", count - NAMED));
        }
        self.bad(format!("its nodes form a cycle: {}", named.join(", then ")))
    }

    fn outputs(&self, names: &[String]) -> Result<Vec<usize>> {
        let mut seen = HashSet::new();
        let number = |name: &String| {
            if !seen.insert(name.clone()) {
                return Err(self.bad(format!("its output \"{name}\" is listed twice")));
            }
            let found = self.numbers.get(name).copied();
            found.ok_or_else(|| self.bad(format!("nothing makes its output \"{name}\"")))
        };
        names.iter().map(number).collect()
    }
}

/// A node for messages.
fn label(node: &NodeProto) -> String {
    let made = node.output.iter().find(|name| !name.is_empty());
    match (node.name(), made) {
        ("", None) => format!("a node {}", node.op_type()),
        ("", Some(made)) => format!("the node {} that makes \"{made}\"", node.op_type()),
        (name, _) => format!("node \"{name}\" ({})", node.op_type()),
    }
}
