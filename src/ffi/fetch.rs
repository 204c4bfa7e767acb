//! Capsules that come while the host does other things.

use super::capsule::{capg_capsule, fetch_layout};
use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share};
use super::input::{array, capg_string, text};
use super::model::capg_model;
use super::output::{HandleOut, Out};
use super::panic::guard;
use super::status::{CAPG_ERROR_BUSY, capg_status};
use crate::store::fetch_job::FetchJob;

/// Capsules on their way. Owned by the host.
pub struct capg_fetch(FetchJob<capg_capsule>);

impl Handle for capg_fetch {}

/// Begins to take capsules out, in this order, on a thread of its own; each as capg_model_fetch does. Errors: NOT_FOUND for
/// an id that does not exist, LIMIT where the system starts no thread. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_fetch_begin(
    model: *const capg_model,
    ids: *const capg_string,
    count: usize,
    layout: u32,
    fetch: *mut *mut capg_fetch,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, strings) = unsafe {
            let out = HandleOut::required(fetch, "fetch")?;
            (out, share(model, "model")?, array(ids, count, "ids")?)
        };
        let mut names = Vec::with_capacity(strings.len());
        for string in strings {
            // SAFETY: as above.
            names.push(unsafe { text(string.data, string.len, "ids") }?.to_owned());
        }
        let (store, own) = (model.model.clone(), model.model.clone());
        let keep = move |fetched: crate::store::fetch::FetchedCapsule<'_>| capg_capsule::new(fetched, &own);
        out.set(capg_fetch(FetchJob::start(store, names, fetch_layout(layout)?, keep)?));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// How many of the capsules have come by now; a failure counts as one, and ends the rest. Never waits. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_fetch_poll(
    fetch: *const capg_fetch,
    come: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, fetch) = unsafe { (Out::required(come, "come")?, share(fetch, "fetch")?) };
        out.set(fetch.0.come());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Takes capsule number index of those that were asked for; once. Errors: BUSY where it has not come yet, NOT_FOUND past
/// the end, the second time, or behind one that failed, and those of capg_model_fetch. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_fetch_take(
    fetch: *const capg_fetch,
    index: usize,
    capsule: *mut *mut capg_capsule,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, fetch) = unsafe { (HandleOut::required(capsule, "capsule")?, share(fetch, "fetch")?) };
        let busy = || Failure::new(CAPG_ERROR_BUSY, format!("capsule number {index} has not come yet; poll"));
        out.set(fetch.0.take(index)?.ok_or_else(busy)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Says that these capsules, by number, are needed next, so that the system may bring them in meanwhile. Only a hint; numbers
/// past the end are ignored. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_prefetch(
    model: *const capg_model,
    capsules: *const usize,
    count: usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (model, capsules) = unsafe { (share(model, "model")?, array(capsules, count, "capsules")?) };
        model.model.store().prefetch(capsules);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a fetch; does nothing for NULL. Capsules that have not come are given up; the one that is on its way is waited
/// for. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_fetch_free(fetch: *mut capg_fetch) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(fetch) };
}
