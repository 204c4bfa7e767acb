//! Taking capsules out on a thread of its own, for hosts that look now and then whether they have come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::Store;
use super::fetch::{FetchLayout, FetchedCapsule};
use crate::error::{Error, Result};
use crate::pool::CancelToken;

/// Capsules on their way. Dropped, it fetches no further one, and gives up the one that it is about.
#[derive(Debug)]
pub struct FetchJob<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
    count: usize,
}

#[derive(Debug)]
struct Shared<T> {
    fetched: Mutex<Fetched<T>>,
    stop: CancelToken,
}

#[derive(Debug)]
struct Fetched<T> {
    /// One entry a capsule that is there, until it is taken; the last may be the failure that ended the job.
    places: Vec<Option<Result<T>>>,
    /// Number of the capsule that failed.
    failed: Option<usize>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Fetched<T>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> FetchJob<T> {
    /// Begins to fetch the capsules called `ids`, in that order, each as `Store::fetch` does. `keep` makes of each what is
    /// kept of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an id that does not exist; [`Error::Limit`] where no thread can be started.
    pub fn start(
        store: impl AsRef<Store> + Send + 'static,
        ids: Vec<String>,
        layout: FetchLayout,
        keep: impl Fn(FetchedCapsule<'_>) -> T + Send + 'static,
    ) -> Result<Self> {
        ids.iter().try_for_each(|id| store.as_ref().find(id).map(drop))?;
        let fetched = Mutex::new(Fetched { places: Vec::new(), failed: None });
        let shared = Arc::new(Shared { fetched, stop: CancelToken::new() });
        let count = ids.len();
        let own = Arc::clone(&shared);
        let fetch_all = move || {
            for (number, id) in ids.into_iter().enumerate() {
                if own.stop.is_cancelled() {
                    return;
                }
                let fetched = store.as_ref().fetch_until(&id, layout, Some(&own.stop)).map(&keep);
                let failed = fetched.is_err().then_some(number);
                let mut all = own.lock();
                all.places.push(Some(fetched));
                all.failed = failed;
                if failed.is_some() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("capsulegraph-fetch".into())
            .spawn(fetch_all)
            .map_err(|e| Error::Limit(format!("cannot start a thread that fetches capsules: {e}")))?;
        Ok(Self { shared, thread: Some(thread), count })
    }

    /// Capsules that have come, whether they were taken or not. A failure counts as one: taking it says which.
    #[must_use]
    pub fn come(&self) -> usize {
        self.shared.lock().places.len()
    }

    /// Takes the capsule at `index` of those that were asked for; `None` where it has not come yet.
    ///
    /// # Errors
    /// Those of `Store::fetch`, once; [`Error::NotFound`] for an index past the end, a capsule that was taken before, or one
    /// that was given up because an earlier one failed.
    pub fn take(&self, index: usize) -> Result<Option<T>> {
        if index >= self.count {
            let count = self.count;
            return Err(Error::NotFound(format!(
                "there is no capsule number {index}; {count} were asked for"
            )));
        }
        let mut fetched = self.shared.lock();
        let failed = fetched.failed;
        match (fetched.places.get_mut(index), failed) {
            (None, None) => Ok(None),
            (None, Some(failed)) => Err(Error::NotFound(format!(
                "capsule number {index} was given up: number {failed} failed, and with it all that follow"
            ))),
            (Some(place), _) => place
                .take()
                .transpose()?
                .map(Some)
                .ok_or_else(|| Error::NotFound(format!("capsule number {index} was taken before"))),
        }
    }
}

impl<T> Drop for FetchJob<T> {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
