//! Threads on Linux.

use super::super::options::Priority;
use super::refusal::{check_allowed, refused};
use crate::error::Result;

/// What a thread has of the one that starts it: here the system sees to it that all is handed on.
#[derive(Clone, Debug)]
pub(super) struct Starter;

impl Starter {
    pub fn this_thread() -> Self {
        Self
    }

    pub fn hand_on(&self) {}
}

/// Restricts the calling thread to `processors`.
pub(super) fn set_processors(processors: &[usize]) -> Result<()> {
    // Of all numbers the system takes those that it allows, and of a list with a wrong number in it likewise the
    // others: so each is looked up. What the thread had inherited is no limit.
    let failed = |e: std::io::Error| refused("processors", &e.to_string());
    let former = affinity::get().map_err(failed)?;
    affinity::set(&affinity::of(0..affinity::NUMBERS)).map_err(failed)?;
    let allowed = affinity::get().map_err(failed)?;
    if let Err(wrong) = check_allowed(processors, &allowed) {
        // The thread may go on without a place: it keeps the one that it had.
        affinity::set(&affinity::of(former.into_iter())).map_err(failed)?;
        return Err(wrong);
    }
    affinity::set(&affinity::of(processors.iter().copied()))
        .map_err(|e| refused(&format!("processors {processors:?}"), &e.to_string()))
}

/// The processors of the calling thread.
mod affinity {
    use std::io::{Error, Result};

    use libc::cpu_set_t;

    /// Numbers that a set has room for.
    pub const NUMBERS: usize = 8 * size_of::<cpu_set_t>();

    /// The set of these numbers, each below [`NUMBERS`].
    pub fn of(processors: impl Iterator<Item = usize>) -> cpu_set_t {
        let mut set = empty();
        for number in processors {
            // SAFETY: a number outside the set is a panic of libc's, no write.
            unsafe { libc::CPU_SET(number, &mut set) };
        }
        set
    }

    pub fn set(processors: &cpu_set_t) -> Result<()> {
        // SAFETY: 0 is the calling thread; the set is as long as its size says.
        match unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), processors) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    pub fn get() -> Result<Vec<usize>> {
        let mut set = empty();
        // SAFETY: 0 is the calling thread; the set is as long as its size says.
        match unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut set) } {
            // SAFETY: the numbers lie inside the set.
            0 => Ok((0..NUMBERS).filter(|number| unsafe { libc::CPU_ISSET(*number, &set) }).collect()),
            _ => Err(Error::last_os_error()),
        }
    }

    fn empty() -> cpu_set_t {
        // SAFETY: zeros are an empty set.
        unsafe { std::mem::zeroed() }
    }
}

/// Lowers the calling thread's priority: by nice values, of which Linux keeps one for each thread.
pub(super) fn set_priority(priority: Priority) -> Result<()> {
    let wanted = if priority == Priority::Lowest { 19 } else { 10 };
    // A thread that is lower already stays where it is.
    let nice = wanted.max(nice());
    // SAFETY: no memory is involved; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => {
            let reason = std::io::Error::last_os_error().to_string();
            Err(refused(&format!("priority {}", priority.name()), &reason))
        }
    }
}

/// The calling thread's nice value.
fn nice() -> i32 {
    // SAFETY: no memory is involved; 0 is the calling thread, which is there, so no -1 is an error.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

#[cfg(test)]
mod tests {
    use super::super::super::ThreadOptions;
    use super::super::place_this_thread;
    use super::*;

    #[test]
    fn a_priority_is_only_ever_lowered() {
        let places = || {
            // SAFETY: no memory is involved; 0 is the calling thread.
            assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 15) }, 0);
            [Priority::Low, Priority::Lowest, Priority::Low].map(|priority| {
                let placed = place_this_thread(&ThreadOptions { priority, ..ThreadOptions::default() });
                (placed.is_ok(), nice())
            })
        };
        let placed = std::thread::spawn(places).join();
        assert_eq!(placed.ok(), Some([(true, 15), (true, 19), (true, 19)]));
    }

    #[test]
    fn every_processor_must_be_allowed() {
        let place = |processors: &[usize]| {
            let options = ThreadOptions { processors: processors.to_vec(), ..ThreadOptions::default() };
            let place = move || {
                let former = affinity::get().ok();
                let placed = place_this_thread(&options).map_err(|e| e.to_string());
                assert!(placed.is_ok() || affinity::get().ok() == former, "a refusal changes nothing");
                placed.map(|()| affinity::get().ok())
            };
            std::thread::spawn(place).join().unwrap_or_else(|_| Err("a panic".into()))
        };
        let allowed = affinity::get().unwrap_or_default();
        assert_eq!(place(&allowed), Ok(Some(allowed.clone())));
        let message = |processors: &[usize]| place(processors).map_or_else(|why| why, |_| "placed".into());
        for wrong in [affinity::NUMBERS - 1, 1 << 40] {
            let message = message(&[allowed[0], wrong]);
            let refused = format!("processors: processor {wrong} is not allowed by the system; choose from ");
            assert!(message.starts_with(&refused), "{message}");
        }
        let twice = message(&[allowed[0], 5000, allowed[0]]);
        assert!(twice.contains(&format!("processor {} is named twice", allowed[0])), "{twice}");
        assert!(message(&[0; 5000]).contains("5000 are named"));
    }
}
