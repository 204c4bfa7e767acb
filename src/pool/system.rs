//! Placing a thread: processors and priority, by means of the operating system.

use super::options::{Priority, ThreadOptions};
use crate::error::{Error, Result};

/// Gives the calling thread the processors and the priority of `options`.
pub(super) fn place_this_thread(options: &ThreadOptions) -> Result<()> {
    if !options.processors.is_empty() {
        set_processors(&options.processors)?;
    }
    match options.priority {
        Priority::Inherited => Ok(()),
        lower => set_priority(lower),
    }
}

/// Restricts the calling thread to `processors`.
#[cfg(target_os = "linux")]
fn set_processors(processors: &[usize]) -> Result<()> {
    // SAFETY: zeros are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for processor in processors {
        if *processor >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(refused(&format!("processor {processor}"), "there is no such number"));
        }
        // SAFETY: the number lies inside the set.
        unsafe { libc::CPU_SET(*processor, &mut set) };
    }
    // SAFETY: 0 is the calling thread; the set is as long as its size says.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => {
            Err(refused(&format!("processors {processors:?}"), &std::io::Error::last_os_error().to_string()))
        }
    }
}

/// Lowers the calling thread's priority: by nice values, of which Linux keeps one for each thread.
#[cfg(target_os = "linux")]
fn set_priority(priority: Priority) -> Result<()> {
    let nice = if priority == Priority::Lowest { 19 } else { 10 };
    // SAFETY: no memory is involved; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => {
            let reason = std::io::Error::last_os_error().to_string();
            Err(refused(&format!("priority {}", priority.name()), &reason))
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn set_processors(processors: &[usize]) -> Result<()> {
    Err(Error::Unsupported(format!(
        "processors {processors:?}: placing threads is not built for this system yet; leave the option out"
    )))
}

#[cfg(not(target_os = "linux"))]
fn set_priority(priority: Priority) -> Result<()> {
    Err(Error::Unsupported(format!(
        "priority {}: placing threads is not built for this system yet; leave the option out",
        priority.name()
    )))
}

#[cfg(target_os = "linux")]
fn refused(what: &str, reason: &str) -> Error {
    Error::InvalidArgument(format!("{what}: the system refuses it to a compute thread: {reason}"))
}
