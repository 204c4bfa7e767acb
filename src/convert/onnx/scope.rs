//! What is known of values by their names, where graphs in nodes see the names around them and may hide them.

use std::collections::HashMap;

use super::proto::{GraphProto, ValueInfoProto};
use super::subgraph::defined;

/// What is known, by name. What was learnt first stays.
#[derive(Debug)]
pub struct Scope<T>(HashMap<String, T>);

impl<T> Default for Scope<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Scope<T> {
    /// What is known of a value.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name)
    }

    /// Adds what was found out about a value; an empty name is none.
    pub fn set(&mut self, name: &str, found: Option<T>) {
        if let Some(found) = found.filter(|_| !name.is_empty()) {
            self.0.entry(name.to_owned()).or_insert(found);
        }
    }

    /// Hides the names that a graph in a node defines, until [`leave`](Self::leave) is given what this returns. Nothing is
    /// copied: graphs may be nested and many.
    pub fn enter(&mut self, body: &GraphProto) -> Hidden<T> {
        let own = defined(body).map(|name| (name.to_owned(), self.0.remove(name)));
        let mut hidden: Vec<_> = own.collect();
        // What it states of others is to be forgotten again.
        let stated = body.output.iter().chain(&body.value_info).map(ValueInfoProto::name);
        hidden.extend(stated.filter(|name| !self.0.contains_key(*name)).map(|name| (name.to_owned(), None)));
        Hidden(hidden)
    }

    /// Knows again what was known before [`enter`](Self::enter).
    pub fn leave(&mut self, Hidden(hidden): Hidden<T>) {
        for (name, before) in hidden.into_iter().rev() {
            match before {
                Some(before) => drop(self.0.insert(name, before)),
                None => drop(self.0.remove(&name)),
            }
        }
    }
}

/// What was known of names that a graph hides.
#[must_use]
pub struct Hidden<T>(Vec<(String, Option<T>)>);
