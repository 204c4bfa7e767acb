//! Who computes: how many threads, where, how urgently, or the host's own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::SharedLoop;
use crate::error::{Error, Result};

/// Most threads that a host may ask for.
pub const MAX_THREADS: usize = 1024;

/// The host's own threads (a game's job system) in place of ours.
pub trait ParallelFor: Send + Sync + fmt::Debug {
    /// Has `work` joined by up to `count` threads, the calling one among them if that suits the host, and returns
    /// when all that joined have come back. Joining more or fewer times, in any order, changes no bit of any
    /// result; what is left undone is done by the caller. It is not called for a loop of one task, nor at all
    /// where [`ThreadOptions::count`] comes to one thread: those the caller computes alone.
    fn run(&self, count: usize, work: &SharedLoop);
}

/// How urgently our threads ask for a processor, never more so than the thread that opens the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Priority {
    /// That of the thread that opens the model.
    #[default]
    Inherited,
    /// Behind the host's ordinary threads.
    Low,
    /// Behind everybody else's.
    Lowest,
}

impl Priority {
    /// All priorities.
    pub const ALL: [Self; 3] = [Self::Inherited, Self::Low, Self::Lowest];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inherited => "inherited",
            Self::Low => "low",
            Self::Lowest => "lowest",
        }
    }
}

impl FromStr for Priority {
    type Err = Error;

    /// The priority of this name, in whatever case.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|priority| priority.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::InvalidArgument(format!("\"{text}\" is no priority; there are {names}"))
        })
    }
}

/// The threads of a model. A number of threads converts into it. Where the system refuses to start one, the model
/// has fewer.
#[derive(Clone, Debug, Default)]
pub struct ThreadOptions {
    /// Threads that compute, the caller's included; 0: one per entry of `processors`, else one per processor
    /// that the process may use.
    pub count: usize,
    /// Numbers of the processors that our threads may run on, each once; empty: all. The caller's thread is the
    /// host's and stays as it is: where one thread computes, which is the caller's, a number that the system does not
    /// allow is still refused, and the others have no effect.
    pub processors: Vec<usize>,
    /// Priority of our threads, again without the caller's: it has no effect where one thread computes.
    pub priority: Priority,
    /// Computes in place of threads of ours; excludes `processors` and `priority`.
    pub host: Option<Arc<dyn ParallelFor>>,
}

impl From<usize> for ThreadOptions {
    fn from(count: usize) -> Self {
        Self { count, ..Self::default() }
    }
}

impl ThreadOptions {
    /// Whether threads are given a place or a priority.
    pub(super) fn places(&self) -> bool {
        !self.processors.is_empty() || self.priority != Priority::Inherited
    }

    /// Finds what is wrong whatever the system allows.
    pub(super) fn check(&self) -> Result<()> {
        if self.host.is_some() && self.places() {
            return Err(Error::InvalidArgument(
                "options.processors and options.priority are for the library's threads and exclude parallel_for; \
                 place your own threads instead"
                    .into(),
            ));
        }
        if self.processors.len() > MAX_THREADS {
            return Err(Error::InvalidArgument(format!(
                "processors: {} are named; at most {MAX_THREADS} are possible",
                self.processors.len()
            )));
        }
        let mut sorted = self.processors.clone();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::InvalidArgument(format!(
                "processors: processor {} is named twice; name each once",
                pair[0]
            ))),
            None => Ok(()),
        }
    }

    /// Number of threads that compute, at least one.
    pub(super) fn threads(&self) -> Result<usize> {
        self.check()?;
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match (self.count, self.processors.len()) {
            (0, 0) => Ok(all()),
            (0, named) | (named, _) if named <= MAX_THREADS => Ok(named),
            (0, named) | (named, _) => Err(Error::InvalidArgument(format!(
                "{named} threads; 1 to {MAX_THREADS} are possible, 0 for one per processor"
            ))),
        }
    }
}
