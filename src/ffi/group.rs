//! Several sessions of one model that go on together.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Instant;

use super::cancel::{capg_cancel, token};
use super::error::{Failure, capg_error};
use super::generate::deadline;
use super::handle::{Handle, release, share};
use super::input::array;
use super::output::{HandleOut, Out};
use super::panic::guard;
use super::session::{State, capg_session};
use super::status::{CAPG_ERROR_BUSY, CAPG_ERROR_INTERNAL, capg_status};
use crate::error::Error;
use crate::generate::group::Group;
use crate::generate::session::{Session, Step};
use crate::pool::Gate;

/// Steps sessions of one model together, so that they share each pass over the weights. Owned by the host; used by one
/// call at a time.
#[derive(Default)]
pub struct capg_group(Mutex<Group>);

impl Handle for capg_group {}

impl capg_group {
    /// The group for one call.
    ///
    /// # Errors
    /// BUSY while another call has it; INTERNAL after a panic.
    fn enter(&self) -> Result<MutexGuard<'_, Group>, Failure> {
        self.0.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Failure::new(CAPG_ERROR_BUSY, "the group is in use by another call; wait for it")
            }
            TryLockError::Poisoned(_) => Failure::new(
                CAPG_ERROR_INTERNAL,
                "an earlier call on this group ended with an internal error; free it and make a new one",
            ),
        })
    }
}

/// Makes a group. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_group_new(
    group: *mut *mut capg_group,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let out = unsafe { HandleOut::required(group, "group") }?;
        out.set(capg_group::default());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Goes on with the generations of these sessions, which capg_session_start began, for about max_microseconds and for
/// max_tokens tokens of each at most (0 each: no limit), one pass over the weights for all of them. Each has the tokens
/// that it would have alone; capg_session_slice gives what came of it. running: how many are not at their end; nullable.
///
/// cancel: nullable. After CANCELLED nothing is lost. Errors: INVALID_ARGUMENT (a session without a generation, one named
/// twice, sessions of several models), LIMIT (the budget), CANCELLED, BUSY. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_group_advance(
    group: *const capg_group,
    sessions: *const *const capg_session,
    count: usize,
    max_microseconds: u64,
    max_tokens: usize,
    cancel: *const capg_cancel,
    running: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let begun = Instant::now();
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, group, handles, cancel) = unsafe {
            let handles = array(sessions, count, "sessions")?;
            (Out::nullable(running), share(group, "group")?, handles, token(cancel))
        };
        let mut shared: Vec<Arc<capg_session>> = Vec::with_capacity(handles.len());
        for handle in handles {
            // SAFETY: as above.
            shared.push(unsafe { share(*handle, "sessions") }?);
        }
        let named_twice =
            (1..shared.len()).any(|i| shared[..i].iter().any(|other| Arc::ptr_eq(other, &shared[i])));
        if named_twice {
            return Err(Failure::invalid("sessions names one twice"));
        }
        let mut group = group.enter()?;
        let mut states: Vec<MutexGuard<'_, State>> = Vec::with_capacity(shared.len());
        for session in &shared {
            states.push(session.enter()?);
        }
        let gate = Gate { deadline: deadline(begun, max_microseconds), cancel };
        advance(&mut group, &mut states, &gate, max_tokens)?;
        out.set(states.iter().filter(|state| state.finished.is_none()).count());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a group; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_group_free(group: *mut capg_group) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(group) };
}

fn advance(
    group: &mut Group,
    states: &mut [MutexGuard<'_, State>],
    gate: &Gate,
    max_tokens: usize,
) -> Result<(), Error> {
    states.iter_mut().for_each(|state| state.begin_slice());
    let wants = |state: &State| {
        state.finished.is_none() && (max_tokens == 0 || state.slice.tokens.len() < max_tokens)
    };
    loop {
        let mut wanting: Vec<&mut State> =
            states.iter_mut().map(|state| &mut **state).filter(|state| wants(state)).collect();
        if wanting.is_empty() {
            return Ok(());
        }
        let mut sessions: Vec<&mut Session> = wanting.iter_mut().map(|state| &mut state.session).collect();
        let steps = group.step(&mut sessions, gate)?;
        let mut paused = false;
        for (state, step) in wanting.iter_mut().zip(steps) {
            paused |= step == Step::Paused;
            state.account(&step);
            if let Step::Token { id, text } = step {
                state.gather(id, &text);
            }
        }
        if paused || gate.deadline.is_some_and(|at| Instant::now() >= at) {
            return Ok(());
        }
    }
}
