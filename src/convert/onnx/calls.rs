//! How large a model becomes where its functions take the place of their calls, as runtimes put them there: functions that
//! call functions make much of few bytes.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::functions::{Key, called_by, key_of};
use super::proto::{FunctionProto, NodeProto};
use super::subgraph::graphs_of;
use crate::error::{Error, Result};

/// Nodes at most, and bytes of them.
const MAX_NODES: u64 = 1 << 20;
const MAX_BYTES: u64 = 4 << 30;
/// Functions that call each other, one inside the other, at most: runtimes go down by recursion.
const MAX_DEPTH: usize = 100;

/// What stands in the place of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    nodes: u64,
    bytes: u64,
    depth: usize,
}

impl Size {
    /// Refuses what is too large; `what` has this size.
    fn check(self, what: &str) -> Result<()> {
        let Self { nodes, bytes, .. } = self;
        if nodes <= MAX_NODES && bytes <= MAX_BYTES {
            return Ok(());
        }
        Err(Error::Limit(format!(
            "{what} would have {nodes} nodes of {bytes} bytes with functions in the place of their calls; at most {MAX_NODES} \
             nodes and {MAX_BYTES} bytes are taken"
        )))
    }
}

/// Nodes and what they call, each with its number of calls.
#[derive(Debug, Default)]
struct Body<'a> {
    own: Size,
    /// In an order, so that of several faults the same one is told.
    calls: BTreeMap<Key<'a>, u64>,
}

impl<'a> Body<'a> {
    /// Adds `nodes` and those of the graphs in them.
    fn add(&mut self, nodes: &'a [NodeProto], functions: &HashMap<Key<'a>, &'a FunctionProto>) {
        let bytes = nodes.iter().map(|node| node.encoded_len() as u64).sum();
        self.own.bytes = self.own.bytes.saturating_add(bytes);
        let mut left: Vec<&[NodeProto]> = vec![nodes];
        while let Some(nodes) = left.pop() {
            self.own.nodes = self.own.nodes.saturating_add(nodes.len() as u64);
            left.extend(nodes.iter().flat_map(graphs_of).map(|graph| graph.node.as_slice()));
            for called in nodes.iter().map(called_by).filter(|called| functions.contains_key(called)) {
                *self.calls.entry(called).or_default() += 1;
            }
        }
    }
}

/// Refuses a model of `nodes` that calls of `functions` make too large or too deep.
///
/// # Errors
/// [`Error::Malformed`] where a function is defined twice or calls itself; [`Error::Limit`] naming the function.
pub fn check(file: &str, functions: &[FunctionProto], nodes: &[NodeProto]) -> Result<()> {
    let mut known = HashMap::with_capacity(functions.len());
    for function in functions {
        let key = key_of(function);
        if known.insert(key, function).is_some() {
            return Err(Error::malformed(file, format!("the function {} is defined twice", label(key))));
        }
    }
    let mut calls = Calls { file, functions: &known, sizes: HashMap::with_capacity(functions.len()) };
    for function in functions {
        calls.function(key_of(function), 1)?;
    }
    if known.is_empty() {
        return Ok(());
    }
    let mut graph = Body::default();
    graph.add(nodes, &known);
    calls.expanded(&graph, 0)?.check("the graph")
}

struct Calls<'a, 'f> {
    file: &'f str,
    functions: &'f HashMap<Key<'a>, &'a FunctionProto>,
    /// Sizes of the functions that were gone through; of those under way there is none.
    sizes: HashMap<Key<'a>, Option<Size>>,
}

impl<'a> Calls<'a, '_> {
    /// What stands in the place of a call of a function, `depth` calls inside each other.
    fn function(&mut self, key: Key<'a>, depth: usize) -> Result<Size> {
        match self.sizes.get(&key) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => {
                return Err(Error::malformed(
                    self.file,
                    format!("the function {} calls itself, directly or through others", label(key)),
                ));
            }
            None => drop(self.sizes.insert(key, None)),
        }
        let mut body = Body::default();
        if let Some(function) = self.functions.get(&key) {
            body.add(&function.node, self.functions);
        }
        let mut size = self.expanded(&body, depth)?;
        size.depth += 1;
        if size.depth > MAX_DEPTH {
            return Err(too_deep(key));
        }
        size.check(&format!("the function {}", label(key)))?;
        self.sizes.insert(key, Some(size));
        Ok(size)
    }

    /// What nodes become that stand `depth` calls inside each other.
    fn expanded(&mut self, body: &Body<'a>, depth: usize) -> Result<Size> {
        let mut size = body.own;
        for (called, times) in &body.calls {
            // Not only what it holds is bounded, but also how far this goes down.
            if depth >= MAX_DEPTH {
                return Err(too_deep(*called));
            }
            let inner = self.function(*called, depth + 1)?;
            size.nodes = size.nodes.saturating_add(inner.nodes.saturating_mul(*times));
            size.bytes = size.bytes.saturating_add(inner.bytes.saturating_mul(*times));
            size.depth = size.depth.max(inner.depth);
        }
        Ok(size)
    }
}

fn too_deep(key: Key<'_>) -> Error {
    Error::Limit(format!(
        "the function {} is one of more than {MAX_DEPTH} that call each other, one inside the other",
        label(key)
    ))
}

/// A function for messages.
fn label((domain, name, overload): Key<'_>) -> String {
    let overload = if overload.is_empty() { String::new() } else { format!(":{overload}") };
    let domain = if domain.is_empty() { String::new() } else { format!("{domain}.") };
    format!("\"{domain}{name}{overload}\"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::convert::onnx::proto::{AttributeProto, GraphProto};

    fn call(name: &str) -> NodeProto {
        NodeProto { op_type: Some(name.into()), domain: Some("own".into()), ..NodeProto::default() }
    }

    fn function(name: &str, node: Vec<NodeProto>) -> FunctionProto {
        let (name, domain) = (Some(name.into()), Some("own".into()));
        FunctionProto { name, domain, node, ..FunctionProto::default() }
    }

    /// `count` functions that each call the next `times` times.
    fn ladder(count: usize, times: usize) -> Vec<FunctionProto> {
        let body = |n: usize| {
            if n + 1 < count { vec![call(&format!("f{}", n + 1)); times] } else { vec![call("Relu")] }
        };
        (0..count).map(|n| function(&format!("f{n}"), body(n))).collect()
    }

    fn refused(functions: &[FunctionProto], nodes: &[NodeProto]) -> String {
        check("m.onnx", functions, nodes).unwrap_err().to_string()
    }

    #[test]
    fn few_functions_that_make_much_are_refused() {
        check("m.onnx", &ladder(19, 2), &[call("f0")]).unwrap();
        let bomb = refused(&ladder(41, 2), &[call("f0")]);
        assert!(bomb.contains("nodes of") && bomb.contains("own.f"), "{bomb}");
        // Each function alone is small enough; the graph that calls it often is not.
        let often = refused(&ladder(19, 2), &[call("f0"), call("f0"), call("f0")]);
        assert!(often.contains("the graph would have"), "{often}");
        let graph = GraphProto { node: vec![call("f0"); 3], ..GraphProto::default() };
        let attribute = AttributeProto { g: Some(Box::new(graph)), ..AttributeProto::default() };
        let inside = NodeProto { attribute: vec![attribute], ..call("If") };
        assert!(refused(&ladder(19, 2), &[inside]).contains("the graph would have"));
    }

    #[test]
    fn bytes_count_as_often_as_they_would_be_there() {
        let tensor = AttributeProto { s: Some(vec![0; 1 << 20].into()), ..AttributeProto::default() };
        let mut functions = ladder(13, 2);
        functions[12].node[0].attribute.push(tensor);
        assert!(refused(&functions, &[call("f0")]).contains("bytes with functions"));
    }

    #[test]
    fn calls_inside_each_other_are_bounded_in_any_order_of_the_functions() {
        for reversed in [false, true] {
            let mut functions = ladder(MAX_DEPTH, 1);
            let mut deeper = ladder(MAX_DEPTH + 1, 1);
            let mut deepest = ladder(100_000, 1);
            if reversed {
                [&mut functions, &mut deeper, &mut deepest].into_iter().for_each(|f| f.reverse());
            }
            check("m.onnx", &functions, &[call("f0")]).unwrap();
            assert!(refused(&deeper, &[call("f0")]).contains("more than 100"));
            assert!(refused(&deepest, &[call("f0")]).contains("more than 100"));
        }
    }

    #[test]
    fn functions_that_call_themselves_or_are_there_twice_are_refused() {
        let circle = [function("a", vec![call("b")]), function("b", vec![call("a")])];
        assert!(refused(&circle, &[]).contains("calls itself"));
        assert!(refused(&[function("a", vec![call("a")])], &[]).contains("\"own.a\" calls itself"));
        let twice = [function("a", vec![]), function("a", vec![])];
        assert!(refused(&twice, &[]).contains("\"own.a\" is defined twice"));
    }
}
