//! Graphs of capsules put together to one.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::proto::GraphProto;

/// A graph that others are added to.
#[derive(Debug, Default)]
pub struct Joined {
    graph: GraphProto,
    /// The nodes and initializers of the graph by the name of what they make.
    made: HashMap<String, usize>,
    initializers: HashMap<String, usize>,
    sparse: HashMap<String, usize>,
    described: HashSet<String>,
}

impl Joined {
    /// Begins with a graph that has no nodes and initializers, but perhaps inputs and outputs.
    #[must_use]
    pub fn new(graph: GraphProto) -> Self {
        let ports = graph.input.iter().chain(&graph.output);
        let described = ports.map(|port| port.name().to_owned()).collect();
        Self { graph, described, ..Self::default() }
    }

    /// Adds a capsule's graph. What it has in common with those before it, constant nodes and shared weights, is taken once;
    /// its own inputs and outputs become types of inner values.
    ///
    /// # Errors
    /// The name of something that the graph has already, and that is different here.
    pub fn add(&mut self, part: GraphProto) -> Result<(), String> {
        for node in part.node {
            let name = node.output.iter().find(|name| !name.is_empty()).cloned();
            add(&mut self.made, &mut self.graph.node, name, node)?;
        }
        for tensor in part.initializer {
            add(&mut self.initializers, &mut self.graph.initializer, tensor.name.clone(), tensor)?;
        }
        for sparse in part.sparse_initializer {
            let name = sparse.values.as_ref().map(|values| values.name().to_owned());
            add(&mut self.sparse, &mut self.graph.sparse_initializer, name, sparse)?;
        }
        for info in part.value_info.into_iter().chain(part.input).chain(part.output) {
            if info.r#type.is_some() && self.described.insert(info.name().to_owned()) {
                self.graph.value_info.push(info);
            }
        }
        Ok(())
    }

    /// The whole.
    #[must_use]
    pub fn graph(self) -> GraphProto {
        self.graph
    }
}

/// Adds an item under its name, where it is not there already.
fn add<T: Message + PartialEq>(
    places: &mut HashMap<String, usize>,
    items: &mut Vec<T>,
    name: Option<String>,
    item: T,
) -> Result<(), String> {
    if let Some(name) = name {
        if let Some(place) = places.get(&name) {
            // A NaN differs from itself, but not its bytes.
            let same = items[*place] == item || items[*place].encode_to_vec() == item.encode_to_vec();
            return if same { Ok(()) } else { Err(name) };
        }
        places.insert(name, items.len());
    }
    items.push(item);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::onnx::proto::{NodeProto, TensorProto};

    fn graph(output: &str, operator: &str, weight: &str) -> GraphProto {
        let node =
            NodeProto { op_type: Some(operator.into()), output: vec![output.into()], ..NodeProto::default() };
        let tensor = TensorProto { name: Some(weight.into()), ..TensorProto::default() };
        GraphProto { node: vec![node], initializer: vec![tensor], ..GraphProto::default() }
    }

    #[test]
    fn what_graphs_share_is_taken_once_and_what_differs_is_refused() {
        let mut joined = Joined::default();
        joined.add(graph("a", "Constant", "w")).unwrap();
        joined.add(graph("a", "Constant", "v")).unwrap();
        joined.add(graph("b", "Relu", "w")).unwrap();
        assert_eq!(joined.add(graph("a", "Shape", "w")).unwrap_err(), "a");
        let whole = joined.graph();
        assert_eq!((whole.node.len(), whole.initializer.len()), (2, 2));
    }
}
