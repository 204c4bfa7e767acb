//! Threads on Windows: processors come in groups of up to 64, and a thread runs in one of them.

use std::io;
use std::mem;

use windows_sys::Win32::System::SystemInformation::GROUP_AFFINITY;
use windows_sys::Win32::System::Threading::{
    GetActiveProcessorCount, GetActiveProcessorGroupCount, GetCurrentThread, GetThreadGroupAffinity,
    GetThreadPriority, SetThreadGroupAffinity, SetThreadPriority, THREAD_PRIORITY_BELOW_NORMAL,
    THREAD_PRIORITY_LOWEST,
};

use super::super::options::Priority;
use super::refusal::{check_allowed, refused};
use crate::error::{Error, Result};

/// Numbers of a group: processor 70 is number 6 of group 1.
const GROUP: usize = 64;
/// What `GetThreadPriority` says where it fails.
const NO_PRIORITY: i32 = i32::MAX;

/// What threads have of the one that starts them. Windows hands neither on.
#[derive(Clone, Debug)]
pub(super) struct Starter {
    priority: i32,
    /// Group and processors.
    affinity: Option<(u16, usize)>,
}

impl Starter {
    pub fn this_thread() -> Self {
        Self { priority: priority(), affinity: affinity() }
    }

    /// Gives the calling thread the same. What the system refuses here it has refused the starter as well.
    pub fn hand_on(&self) {
        if let Some((group, mask)) = self.affinity.filter(|own| affinity().as_ref() != Some(own)) {
            let _ = set_affinity(group, mask);
        }
        if self.priority != NO_PRIORITY && self.priority != priority() {
            // SAFETY: no memory is involved; the handle is the calling thread's own.
            unsafe { SetThreadPriority(GetCurrentThread(), self.priority) };
        }
    }
}

/// Restricts the calling thread to `processors`.
pub(super) fn set_processors(processors: &[usize]) -> Result<()> {
    check_allowed(processors, &all())?;
    let group = processors.first().map_or(0, |first| first / GROUP);
    if let Some(other) = processors.iter().find(|number| *number / GROUP != group) {
        return Err(Error::InvalidArgument(format!(
            "processors: {other} is not of the group of 64 that {} is of, and Windows runs a thread in one group; name \
             processors of one",
            processors.first().copied().unwrap_or_default()
        )));
    }
    let mask = processors.iter().fold(0, |mask, number| mask | 1usize << (number % GROUP));
    set_affinity(group as u16, mask)
        .map_err(|e| refused(&format!("processors {processors:?}"), &e.to_string()))
}

/// The numbers of all processors.
fn all() -> Vec<usize> {
    // SAFETY: asks for a number.
    let groups = unsafe { GetActiveProcessorGroupCount() };
    let of_group = |group: u16| {
        // SAFETY: asks for a number.
        let count = unsafe { GetActiveProcessorCount(group) } as usize;
        let first = usize::from(group) * GROUP;
        first..first + count
    };
    (0..groups).flat_map(of_group).collect()
}

/// Group and processors of the calling thread; `None` where the system does not tell.
fn affinity() -> Option<(u16, usize)> {
    // SAFETY: a struct of numbers, of which zeros are a value.
    let mut affinity: GROUP_AFFINITY = unsafe { mem::zeroed() };
    // SAFETY: the handle is the calling thread's own; the system fills the struct, which is ours.
    let known = unsafe { GetThreadGroupAffinity(GetCurrentThread(), &raw mut affinity) } != 0;
    known.then_some((affinity.Group, affinity.Mask))
}

fn set_affinity(group: u16, mask: usize) -> io::Result<()> {
    // SAFETY: a struct of numbers, of which zeros are a value.
    let empty: GROUP_AFFINITY = unsafe { mem::zeroed() };
    let affinity = GROUP_AFFINITY { Mask: mask, Group: group, ..empty };
    // SAFETY: the handle is the calling thread's own; the struct lives during the call; the former value is not asked for.
    match unsafe { SetThreadGroupAffinity(GetCurrentThread(), &raw const affinity, std::ptr::null_mut()) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lowers the calling thread's priority, never to one of those that get no processor as long as others want it: the caller
/// waits for its threads.
pub(super) fn set_priority(wanted: Priority) -> Result<()> {
    let lowest = wanted == Priority::Lowest;
    let level = if lowest { THREAD_PRIORITY_LOWEST } else { THREAD_PRIORITY_BELOW_NORMAL };
    // A thread that is lower already stays where it is.
    let level = level.min(priority());
    // SAFETY: no memory is involved; the handle is the calling thread's own.
    match unsafe { SetThreadPriority(GetCurrentThread(), level) } {
        0 => Err(refused(&format!("priority {}", wanted.name()), &io::Error::last_os_error().to_string())),
        _ => Ok(()),
    }
}

/// The calling thread's priority.
fn priority() -> i32 {
    // SAFETY: no memory is involved; the handle is the calling thread's own.
    unsafe { GetThreadPriority(GetCurrentThread()) }
}

#[cfg(test)]
mod tests {
    use super::super::super::ThreadOptions;
    use super::super::{Place, place_this_thread};
    use super::*;

    fn in_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(act).join().unwrap()
    }

    #[test]
    fn a_priority_is_only_ever_lowered_and_handed_on() {
        let lowered = |wanted| {
            let placed = place_this_thread(&ThreadOptions { priority: wanted, ..ThreadOptions::default() });
            (placed.is_ok(), priority())
        };
        let placed = in_thread(move || [Priority::Low, Priority::Lowest, Priority::Low].map(lowered));
        assert_eq!(placed, [(true, -1), (true, -2), (true, -2)]);
        let started = in_thread(move || {
            lowered(Priority::Low);
            let place = Place::of(&ThreadOptions::default());
            in_thread(move || place.take().map(|()| priority()).ok())
        });
        assert_eq!(started, Some(-1));
    }

    #[test]
    fn every_processor_must_be_there() {
        let place = |processors: &[usize]| {
            let options = ThreadOptions { processors: processors.to_vec(), ..ThreadOptions::default() };
            in_thread(move || {
                let former = affinity();
                let placed = place_this_thread(&options).map_err(|e| e.to_string());
                assert!(placed.is_ok() || affinity() == former, "a refusal changes nothing");
                placed.map(|()| affinity())
            })
        };
        let last = *all().last().unwrap();
        assert_eq!(place(&[last]), Ok(Some(((last / GROUP) as u16, 1 << (last % GROUP)))));
        let refused = place(&[0, 1 << 40]).unwrap_err();
        assert!(
            refused.starts_with(&format!("processors: processor {} is not allowed", 1u64 << 40)),
            "{refused}"
        );
    }
}
