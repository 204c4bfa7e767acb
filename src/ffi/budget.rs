//! Memory budgets that several models share.

use std::sync::Arc;

use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share, share_optional};
use super::output::{HandleOut, Out};
use super::panic::guard;
use super::status::capg_status;
use crate::store::budget::Budget;

/// A bound on all memory that the library holds for the models that were opened with it, and for their sessions. It
/// lives as long as they do, whether the handle is freed or not.
pub struct capg_budget(Arc<Budget>);

impl Handle for capg_budget {}

/// The budget behind a nullable handle.
///
/// # Safety
/// `budget` is NULL or a live handle.
pub(super) unsafe fn shared(budget: *const capg_budget) -> Option<Arc<Budget>> {
    // SAFETY: passed on.
    unsafe { share_optional(budget) }.map(|b| Arc::clone(&b.0))
}

fn positive(bytes: u64) -> Result<u64, Failure> {
    if bytes == 0 {
        return Err(Failure::invalid("bytes is 0; a budget has some, and models without a budget need none"));
    }
    Ok(bytes)
}

/// Makes a budget of that many bytes. Errors: INVALID_ARGUMENT for 0. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_budget_new(
    bytes: u64,
    budget: *mut *mut capg_budget,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let out = unsafe { HandleOut::required(budget, "budget") }?;
        out.set(capg_budget(Budget::new(positive(bytes)?)));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Another bound from now on. Where it is less, weights are given up before the call returns, which waits for passes in
/// progress; where it is more, weights stay as they are read again. Errors: LIMIT where the open models and sessions
/// cannot work in it (the message names the smallest bound that they can work in; the bound is then as it was),
/// INVALID_ARGUMENT for 0. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_budget_resize(
    budget: *const capg_budget,
    bytes: u64,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let budget = unsafe { share(budget, "budget") }?;
        Ok(budget.0.resize(positive(bytes)?)?)
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// The bound, and of it the bytes that KV caches, activations, tables and fetched capsules claim; the rest holds weights. It
/// does not wait: while another thread changes the budget the two numbers may be of before and after. claimed: nullable.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_budget_bytes(
    budget: *const capg_budget,
    bytes: *mut u64,
    claimed: *mut u64,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (bytes, claimed, budget) =
            unsafe { (Out::required(bytes, "bytes")?, Out::nullable(claimed), share(budget, "budget")?) };
        bytes.set(budget.0.total());
        claimed.set(budget.0.claimed());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a budget; does nothing for NULL. Models that were opened with it keep it. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_budget_free(budget: *mut capg_budget) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(budget) };
}
