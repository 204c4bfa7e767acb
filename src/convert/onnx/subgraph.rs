//! Graphs in the attributes of nodes (the bodies of If, Loop and Scan): what they read from outside, and the weights in
//! them, which are taken out to the model's graph so that capsules can hold them.

use std::collections::{HashMap, HashSet};

use super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};
use super::source::Source;
use super::tensor::{Checked, Weight};
use crate::error::Result;

/// The graphs in a node's attributes.
pub fn graphs_of(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
}

fn graphs_of_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|a| a.g.as_deref_mut().into_iter().chain(&mut a.graphs))
}

/// The names that a graph defines itself.
pub(super) fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|v| v.name());
    let tensors = graph.initializer.iter().map(TensorProto::name);
    let sparse = graph.sparse_initializer.iter().filter_map(|s| Some(s.values.as_ref()?.name()));
    let made = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    inputs.chain(tensors).chain(sparse).chain(made).filter(|name| !name.is_empty())
}

/// The names that a node reads, its own inputs first, then what the graphs in it read from outside; each once.
#[must_use]
pub fn reads_of(node: &NodeProto) -> Vec<&str> {
    let mut reads = Reads { scopes: Vec::new(), seen: HashSet::new(), found: Vec::new() };
    reads.node(node);
    reads.found
}

struct Reads<'a> {
    /// What the graphs around the current node define, the outermost first.
    scopes: Vec<HashSet<&'a str>>,
    seen: HashSet<&'a str>,
    found: Vec<&'a str>,
}

impl<'a> Reads<'a> {
    // As deep as the decoder let graphs be nested.
    fn node(&mut self, node: &'a NodeProto) {
        node.input.iter().for_each(|name| self.name(name));
        for graph in graphs_of(node) {
            self.scopes.push(defined(graph).collect());
            graph.node.iter().for_each(|node| self.node(node));
            graph.output.iter().for_each(|output| self.name(output.name()));
            self.scopes.pop();
        }
    }

    fn name(&mut self, name: &'a str) {
        let inner = name.is_empty() || self.scopes.iter().any(|scope| scope.contains(name));
        if !inner && self.seen.insert(name) {
            self.found.push(name);
        }
    }
}

/// The tensor of a Constant node that holds one.
#[must_use]
pub fn constant_tensor(node: &NodeProto) -> Option<&TensorProto> {
    let [attribute] = node.attribute.as_slice() else { return None };
    let plain =
        node.op_type() == "Constant" && matches!(node.domain(), "" | "ai.onnx") && node.output.len() == 1;
    let value = attribute.name() == "value" && attribute.ref_attr_name().is_empty();
    attribute.t.as_deref().filter(|_| plain && value)
}

/// Takes weights out of subgraphs, and puts external data that is no weight into its tensor.
pub struct Hoist<'s> {
    source: &'s mut Source,
    /// How often each name is defined in the whole model.
    names: HashMap<String, usize>,
    /// The last number that was put behind a name.
    serials: HashMap<String, usize>,
    /// The weights that were taken out, by their names in the model's graph.
    pub found: Vec<(String, Weight)>,
}

impl<'s> Hoist<'s> {
    /// For the nodes of `model`.
    pub fn new(source: &'s mut Source, model: &ModelProto) -> Self {
        let mut names = HashMap::new();
        model.graph.iter().for_each(|graph| count(graph, &mut names));
        Self { source, names, serials: HashMap::new(), found: Vec::new() }
    }

    /// The files of the model.
    pub fn source(&mut self) -> &mut Source {
        self.source
    }

    /// Goes through a node and everything in it.
    ///
    /// # Errors
    /// Those of [`Checked::new`] and of reading external data.
    pub fn node(&mut self, node: &mut NodeProto) -> Result<()> {
        node.attribute.iter_mut().try_for_each(|attribute| self.attribute(attribute))?;
        graphs_of_mut(node).try_for_each(|graph| self.graph(graph))
    }

    /// Brings external data into the defaults of a function's attributes, its nodes and everything in these; weights stay, as
    /// functions have no graph to take them to.
    ///
    /// # Errors
    /// Those of [`Checked::new`] and of reading external data.
    pub fn function(&mut self, function: &mut FunctionProto) -> Result<()> {
        for attribute in &mut function.attribute_proto {
            self.attribute(attribute)?;
            let graphs = attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs);
            graphs.into_iter().try_for_each(|graph| self.inline_graph(graph))?;
        }
        function.node.iter_mut().try_for_each(|node| self.inline(node))
    }

    fn inline(&mut self, node: &mut NodeProto) -> Result<()> {
        node.attribute.iter_mut().try_for_each(|attribute| self.attribute(attribute))?;
        graphs_of_mut(node).try_for_each(|graph| self.inline_graph(graph))
    }

    fn inline_graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        graph.node.iter_mut().try_for_each(|node| self.inline(node))?;
        let sparse =
            graph.sparse_initializer.iter_mut().flat_map(|s| s.values.iter_mut().chain(&mut s.indices));
        graph.initializer.iter_mut().chain(sparse).try_for_each(|tensor| self.inline_tensor(tensor))
    }

    fn inline_tensor(&mut self, tensor: &mut TensorProto) -> Result<()> {
        if tensor.is_external() {
            *tensor = Checked::new(self.source, tensor)?.inlined(self.source, tensor)?;
        }
        Ok(())
    }

    /// Brings the external data of an attribute's tensors into them.
    fn attribute(&mut self, attribute: &mut AttributeProto) -> Result<()> {
        let sparse = attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors);
        let parts = sparse.flat_map(|s| s.values.iter_mut().chain(&mut s.indices));
        let tensors = attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors);
        tensors.chain(parts).try_for_each(|tensor| self.inline_tensor(tensor))
    }

    fn graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        // What the graph takes or gives under its own name stays in it.
        let ports = graph.input.iter().chain(&graph.output);
        let bound: HashSet<String> = ports.map(|port| port.name().to_owned()).collect();
        let mut renamed = HashMap::new();
        let mut kept = Vec::with_capacity(graph.initializer.len());
        for tensor in std::mem::take(&mut graph.initializer) {
            let checked = Checked::new(self.source, &tensor)?;
            match checked.weight().filter(|_| !tensor.name().is_empty() && !bound.contains(tensor.name())) {
                Some(weight) => self.take(tensor.name(), weight, &mut renamed),
                None => kept.push(checked.inlined(self.source, &tensor)?),
            }
        }
        graph.initializer = kept;
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node) {
            let free = node.output.first().filter(|name| !name.is_empty() && !bound.contains(*name));
            if let (Some(name), Some(tensor)) = (free, constant_tensor(&node))
                && let Some(weight) = Checked::new(self.source, tensor)?.weight()
            {
                self.take(name, weight, &mut renamed);
            } else {
                nodes.push(node);
            }
        }
        graph.node = nodes;
        for node in &mut graph.node {
            rename(node, &renamed);
            self.node(node)?;
        }
        for sparse in &mut graph.sparse_initializer {
            let mut parts = sparse.values.iter_mut().chain(&mut sparse.indices);
            parts.try_for_each(|tensor| self.inline_tensor(tensor))?;
        }
        Ok(())
    }

    /// Takes a weight out under its own name, or under a new one where others have it too.
    fn take(&mut self, name: &str, weight: &Weight, renamed: &mut HashMap<String, String>) {
        let mut own = name.to_owned();
        if self.names.get(name).is_none_or(|times| *times > 1) {
            own = self.fresh(name);
            renamed.insert(name.to_owned(), own.clone());
        }
        self.names.insert(own.clone(), 1);
        self.found.push((own, weight.clone()));
    }

    /// A name like `name` that the model does not have.
    fn fresh(&mut self, name: &str) -> String {
        let serial = self.serials.entry(name.to_owned()).or_default();
        loop {
            *serial += 1;
            let candidate = format!("{name}_{serial}");
            // Names are finite; none is looked at twice.
            if !self.names.contains_key(&candidate) {
                return candidate;
            }
        }
    }
}

/// Counts the definitions of names in a graph and in the graphs in it.
fn count(graph: &GraphProto, names: &mut HashMap<String, usize>) {
    for name in defined(graph) {
        *names.entry(name.to_owned()).or_default() += 1;
    }
    // Names that a broken model only reads are not free either.
    for name in graph.node.iter().flat_map(|n| &n.input) {
        names.entry(name.clone()).or_default();
    }
    graph.node.iter().flat_map(graphs_of).for_each(|graph| count(graph, names));
}

/// Gives the values that a node reads their new names, also in its graphs, where those do not define the old ones anew.
fn rename(node: &mut NodeProto, renamed: &HashMap<String, String>) {
    if renamed.is_empty() {
        return;
    }
    for name in &mut node.input {
        if let Some(new) = renamed.get(name) {
            name.clone_from(new);
        }
    }
    for graph in graphs_of_mut(node) {
        let own: HashSet<&str> = defined(graph).collect();
        let outer = renamed.iter().filter(|(name, _)| !own.contains(name.as_str()));
        let outer: HashMap<String, String> = outer.map(|(old, new)| (old.clone(), new.clone())).collect();
        graph.node.iter_mut().for_each(|node| rename(node, &outer));
    }
}
