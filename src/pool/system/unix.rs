//! Threads on a Unix of which no way is known to place them.

use super::super::options::Priority;
use crate::error::{Error, Result};

/// What a thread has of the one that starts it: here the system sees to it that all is handed on.
#[derive(Clone, Debug)]
pub(super) struct Starter;

impl Starter {
    pub fn this_thread() -> Self {
        Self
    }

    pub fn hand_on(&self) {}
}

pub(super) fn set_processors(processors: &[usize]) -> Result<()> {
    Err(Error::Unsupported(format!(
        "processors {processors:?}: placing threads is not built for this system yet; leave the option out"
    )))
}

pub(super) fn set_priority(priority: Priority) -> Result<()> {
    Err(Error::Unsupported(format!(
        "priority {}: placing threads is not built for this system yet; leave the option out",
        priority.name()
    )))
}
