//! Stopping runs: a thread of our own looks at the callers' tokens while runs are under way, and sleeps while none is.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::api::RunOptions;
use crate::error::{Error, Result};
use crate::pool::CancelToken;

/// Time between two looks at the tokens.
const LOOK: Duration = Duration::from_millis(1);
/// Looks without anything to look at before the thread goes to sleep: runs that follow each other need not wake it.
const IDLE_LOOKS: u32 = 50;

/// The runs that can be stopped.
#[derive(Default)]
struct Watched {
    runs: Mutex<Runs>,
    added: Condvar,
}

#[derive(Default)]
struct Runs {
    all: Vec<(u64, CancelToken, Arc<RunOptions>)>,
    next: u64,
    asleep: bool,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut idle = 0;
        loop {
            std::thread::sleep(LOOK);
            let mut runs = self.lock();
            idle = if runs.all.is_empty() { idle + 1 } else { 0 };
            runs.all.retain(|(_, token, options)| {
                let stop = token.is_cancelled();
                if stop {
                    options.terminate();
                }
                !stop
            });
            if idle > IDLE_LOOKS {
                runs.asleep = true;
                while runs.all.is_empty() {
                    runs = self.added.wait(runs).unwrap_or_else(PoisonError::into_inner);
                }
                runs.asleep = false;
            }
        }
    }
}

/// A run that is watched until this is dropped.
pub(super) struct Watch(u64);

impl Watch {
    /// Stops the runs with `options` soon after `token` is cancelled.
    pub fn new(token: &CancelToken, options: &Arc<RunOptions>) -> Result<Self> {
        let watched = watched()?;
        let mut runs = watched.lock();
        let number = runs.next;
        runs.next += 1;
        runs.all.push((number, token.clone(), Arc::clone(options)));
        if runs.asleep {
            watched.added.notify_one();
        }
        Ok(Self(number))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(watched) = watched() {
            watched.lock().all.retain(|(number, ..)| *number != self.0);
        }
    }
}

/// The runs that are watched, and the thread that does it, started with the first.
fn watched() -> Result<&'static Watched> {
    static WATCHED: OnceLock<Watched> = OnceLock::new();
    static STARTED: Mutex<bool> = Mutex::new(false);
    let watched = WATCHED.get_or_init(Watched::default);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*started {
        let thread = std::thread::Builder::new().name("capsulegraph-cancel".into());
        thread.spawn(|| watched.watch()).map_err(|error| {
            Error::Limit(format!("the system starts no thread to watch for cancellation: {error}"))
        })?;
        *started = true;
    }
    Ok(watched)
}
