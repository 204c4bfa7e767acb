//! Which nodes give the same bytes in every run.

use std::collections::{HashMap, HashSet};

use super::proto::{FunctionProto, NodeProto};
use super::subgraph::graphs_of;

/// Operators that draw random numbers.
const RANDOM: &[&str] = &[
    "Bernoulli",
    "BitmaskDropout",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Sampling",
];
/// Domains whose other operators do not.
const DOMAINS: &[&str] = &["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// Domain, name and overload of a function.
pub(super) type Key<'a> = (&'a str, &'a str, &'a str);

/// The functions of a model that draw no random numbers and have no control flow, and those that do.
#[derive(Debug)]
pub struct Functions {
    all: HashMap<(String, String, String), bool>,
}

impl Functions {
    /// Goes through the bodies of `functions`.
    #[must_use]
    pub fn new(functions: &[FunctionProto]) -> Self {
        let known: HashSet<Key<'_>> = functions.iter().map(key_of).collect();
        let mut callers: HashMap<Key<'_>, Vec<Key<'_>>> = HashMap::new();
        let mut changing: Vec<Key<'_>> = Vec::new();
        for function in functions {
            let own = key_of(function);
            for node in &function.node {
                let called = called_by(node);
                let plain = graphs_of(node).next().is_none();
                if known.contains(&called) && plain {
                    callers.entry(called).or_default().push(own);
                } else if !(plain && is_deterministic(node)) {
                    changing.push(own);
                }
            }
        }
        // Whoever calls a function that changes changes too.
        let mut found = HashSet::new();
        while let Some(key) = changing.pop() {
            if found.insert(key) {
                changing.extend(callers.get(&key).into_iter().flatten());
            }
        }
        let owned = |key: Key<'_>| (normal(key.0).to_owned(), key.1.to_owned(), key.2.to_owned());
        Self { all: known.iter().map(|key| (owned(*key), !found.contains(key))).collect() }
    }

    /// Whether a node without graphs in it makes the same of the same.
    #[must_use]
    pub fn is_deterministic(&self, node: &NodeProto) -> bool {
        let (domain, name, overload) = called_by(node);
        if self.all.is_empty() {
            return is_deterministic(node);
        }
        let function = self.all.get(&(domain.to_owned(), name.to_owned(), overload.to_owned()));
        function.copied().unwrap_or_else(|| is_deterministic(node))
    }
}

fn is_deterministic(node: &NodeProto) -> bool {
    DOMAINS.contains(&node.domain()) && !RANDOM.contains(&node.op_type())
}

/// The name that calls give a function.
pub(super) fn key_of(function: &FunctionProto) -> Key<'_> {
    (normal(function.domain()), function.name(), function.overload())
}

/// The function that a node calls, if there is one of this name.
pub(super) fn called_by(node: &NodeProto) -> Key<'_> {
    (normal(node.domain()), node.op_type(), node.overload())
}

/// ONNX's own domain has two names.
fn normal(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
