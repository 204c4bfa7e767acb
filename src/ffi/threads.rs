//! The threads of a model: where they run, how urgently, or the host's own in their place.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Failure;
use super::input::{array, reserved};
use super::model::capg_model_options;
use super::panic::quietly;
use crate::pool::{MAX_THREADS, ParallelFor, Priority, SharedLoop, ThreadOptions};

/// Compute threads run with the priority of the thread that opens the model.
pub const CAPG_PRIORITY_INHERITED: u32 = 0;
/// Compute threads stand behind the host's ordinary threads.
pub const CAPG_PRIORITY_LOW: u32 = 1;
/// Compute threads stand behind everybody else's; on a busy processor a small share is left to them, for which the
/// caller waits.
pub const CAPG_PRIORITY_LOWEST: u32 = 2;

/// The part of a parallel loop that the library asks the host to run, on any of its threads: to be called with the
/// task_data that came with it. It returns when nothing is left to begin, and never lets an exception out.
pub type capg_parallel_task = Option<unsafe extern "C" fn(task_data: *mut c_void)>;

/// Runs a parallel loop on the host's threads: calls task(task_data) up to count times, each on a thread of its
/// own (the calling one may be among them), and returns when every call that has begun has returned; one that begins
/// later finds nothing to do. The library finishes what is left, so fewer calls are slower but not wrong. Called by
/// the thread that computes, inside its call, several times per layer and token: it should cost microseconds. Never called for a loop of one task, nor at all
/// where the model has one thread: the thread that computes then does it alone. It must not throw and must not
/// call the library.
pub type capg_parallel_for_callback = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        count: u32,
        task: capg_parallel_task,
        task_data: *mut c_void,
    ),
>;

/// The host's threads.
#[derive(Debug)]
struct HostThreads {
    run: unsafe extern "C" fn(*mut c_void, u32, capg_parallel_task, *mut c_void),
    user_data: *mut c_void,
    /// The loop that is run; a task that comes too late finds none, or the next one, which it may help.
    current: Mutex<Option<SharedLoop>>,
}

// SAFETY: `user_data` is only handed to `run`, which the header says is called by every thread that computes.
unsafe impl Send for HostThreads {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostThreads {}

impl HostThreads {
    fn set(&self, work: Option<SharedLoop>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

impl ParallelFor for HostThreads {
    fn run(&self, count: usize, work: &SharedLoop) {
        self.set(Some(work.clone()));
        let data = std::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: by the contract in the header; the task takes the pointer for what it is.
        unsafe { (self.run)(self.user_data, count as u32, Some(join), data) };
        self.set(None);
    }
}

/// What the host's threads call.
///
/// # Safety
/// `task_data` is the pointer that came with this function, and its model still exists.
unsafe extern "C" fn join(task_data: *mut c_void) {
    // SAFETY: `run` made it of a `HostThreads`, which lives as long as the model.
    let Some(threads) = (unsafe { task_data.cast::<HostThreads>().as_ref() }) else { return };
    let work = threads.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A panic of a task is caught by the loop and passed on by the thread that called the library.
    let _ = quietly(|| work.inspect(SharedLoop::join));
}

/// The threads that `options` ask for.
///
/// # Safety
/// What the options point to is valid.
pub(super) unsafe fn thread_options(o: &capg_model_options) -> Result<ThreadOptions, Failure> {
    reserved(o.reserved, "options.reserved")?;
    let priority = match o.priority {
        CAPG_PRIORITY_INHERITED => Priority::Inherited,
        CAPG_PRIORITY_LOW => Priority::Low,
        CAPG_PRIORITY_LOWEST => Priority::Lowest,
        other => {
            return Err(Failure::invalid(format!(
                "options.priority is {other}; 0 (inherited), 1 (low) and 2 (lowest) are possible"
            )));
        }
    };
    // Before a length that cannot be right leads anywhere.
    if o.processors_len > MAX_THREADS {
        return Err(Failure::invalid(format!(
            "options.processors_len is {}; at most {MAX_THREADS} are possible",
            o.processors_len
        )));
    }
    // SAFETY: the host's array has that many numbers.
    let processors = unsafe { array(o.processors, o.processors_len, "options.processors") }?;
    let host = o.parallel_for.map(|run| {
        let current = Mutex::new(None);
        Arc::new(HostThreads { run, user_data: o.parallel_for_data, current }) as Arc<dyn ParallelFor>
    });
    let processors = processors.iter().map(|number| *number as usize).collect();
    Ok(ThreadOptions { count: o.threads as usize, processors, priority, host })
}
