//! The fork-join pool: one parallel loop at a time, its tasks claimed in ascending order.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::options::{ParallelFor, ThreadOptions};
use super::pace::Pace;
use super::{Gate, Progress, StandardFloats, system};
use crate::error::Result;

/// How long a thread with nothing to do stays awake. Loops of one forward pass follow each other within a
/// few microseconds, so that waking a parked thread (5 to 50 us) would cost more than it saves.
const SPIN: Duration = Duration::from_micros(40);

/// Spins between two readings of the clock.
const SPINS_PER_READING: u32 = 64;

/// Value of [`Job::next`] that no claim can leave: the job is over. Far from overflow on every target.
const CLOSED: usize = usize::MAX / 2;

/// The function of a job, its lifetime erased; [`Job::run_claimed`] says when it may be called.
struct Task(*const (dyn Fn(usize) + Sync));

// SAFETY: the pointee is `Sync`, so sharing it is sound; `Job::run_claimed` states why it is alive when called.
unsafe impl Send for Task {}
// SAFETY: as for `Send`: only `&` access to a `Sync` pointee.
unsafe impl Sync for Task {}

/// One parallel loop. Outlives its `run` in threads that come too late; those find nothing to claim.
pub(super) struct Job {
    task: Task,
    gate: Gate,
    tasks: usize,
    /// Next task to claim; `>= tasks` once all are claimed, `>= CLOSED` once the caller ended the loop.
    next: AtomicUsize,
    /// Tasks that were claimed and have returned or panicked.
    finished: AtomicUsize,
    /// The caller is parked, or about to be, until `finished` reaches the number of claims.
    caller_waits: AtomicBool,
    caller: Thread,
    /// A task or the host panicked, or a thread saw the gate closed: nothing further is to be claimed.
    stopped: AtomicBool,
    /// Payload of the first panic.
    payload: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job {
    /// Claims and runs tasks until none is left, the gate closes or a task panics.
    pub(super) fn work(&self) {
        let mut pace = Pace::new(&self.gate);
        while !self.stopped.load(Ordering::Relaxed) {
            if !pace.admits() {
                // Other threads may not look at the clock for a while.
                self.stopped.store(true, Ordering::Relaxed);
                return;
            }
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.tasks {
                return;
            }
            self.run_claimed(index);
        }
    }

    /// Runs task `index`, which the calling thread has just claimed.
    fn run_claimed(&self, index: usize) {
        // SAFETY: a claimed task is not yet counted in `finished`, and `Pool::fork`, whose caller lends the
        // function, neither returns nor unwinds before every claimed task is counted.
        let task = unsafe { &*self.task.0 };
        self.caught(|| task(index));
        // SeqCst pairs with `finish`: either this thread sees `caller_waits` or the caller sees the count.
        self.finished.fetch_add(1, Ordering::SeqCst);
        if self.caller_waits.load(Ordering::SeqCst) {
            self.caller.unpark();
        }
    }

    /// Runs `f`; a panic in it is kept for the caller, and no further task begins.
    fn caught(&self, f: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
            self.stopped.store(true, Ordering::Relaxed);
            let mut first = lock(&self.payload);
            match *first {
                None => *first = Some(payload),
                // A payload's own destructor may panic; leaking it cannot.
                Some(_) => std::mem::forget(payload),
            }
        }
    }

    /// Ends the loop and waits for the claimed tasks. Returns the first task that was not claimed.
    fn finish(&self, from: usize) -> usize {
        let claimed = self.next.swap(CLOSED, Ordering::Relaxed).min(self.tasks);
        let done = || self.finished.load(Ordering::SeqCst) == claimed - from;
        if !spin_until(done) {
            // An exchange, no store: emulators of aarch64 (qemu's TCG) let a store pass the load behind it, and the
            // last worker would wake nobody.
            self.caller_waits.swap(true, Ordering::SeqCst);
            while !done() {
                thread::park();
            }
        }
        claimed
    }
}

/// What workers look at when they have nothing to do.
struct Slot {
    job: Option<Arc<Job>>,
    /// Workers inside `Condvar::wait`.
    sleeping: usize,
    shutdown: bool,
}

struct Shared {
    /// Number of jobs posted so far; read without the lock by spinning workers.
    epoch: AtomicUsize,
    slot: Mutex<Slot>,
    wake: Condvar,
}

impl Shared {
    /// A worker's life: take a newly posted job, work, look again; spin briefly, then sleep.
    fn serve(&self) {
        // A thread starts in its creator's mode.
        let _floats = StandardFloats::enter();
        let mut seen = 0;
        loop {
            spin_until(|| self.epoch.load(Ordering::Acquire) != seen);
            let mut slot = lock(&self.slot);
            while self.epoch.load(Ordering::Relaxed) == seen && !slot.shutdown {
                slot.sleeping += 1;
                slot = self.wake.wait(slot).unwrap_or_else(PoisonError::into_inner);
                slot.sleeping -= 1;
            }
            if slot.shutdown {
                return;
            }
            // The epoch changes under the lock only, so it names the job in the slot.
            seen = self.epoch.load(Ordering::Relaxed);
            let job = slot.job.clone();
            drop(slot);
            if let Some(job) = job {
                job.work();
            }
        }
    }

    /// Shows `job` to the workers. It stays visible until the next; who takes it late finds nothing to claim.
    fn post(&self, job: Arc<Job>) {
        let mut slot = lock(&self.slot);
        slot.job = Some(job);
        self.epoch.store(self.epoch.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        let asleep = slot.sleeping > 0;
        drop(slot);
        if asleep {
            self.wake.notify_all();
        }
    }
}

/// Who shares the loops with the caller.
enum Crew {
    /// Threads of our own.
    Own { shared: Arc<Shared>, workers: Vec<JoinHandle<()>> },
    /// The host's threads, so many of them together with the caller.
    Host { host: Arc<dyn ParallelFor>, threads: usize },
}

/// Threads that share parallel loops with the caller of [`run`](Pool::run). Workers sleep between loops.
pub struct Pool {
    crew: Crew,
    /// Held for the length of one loop; who finds it taken computes alone.
    turn: Mutex<()>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool in which as many threads compute as `options` say (a number alone will do), the caller of `run`
    /// among them. Where the system refuses to start a thread the pool has fewer, which is no error:
    /// [`threads`](Self::threads) says how many.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for more than [`super::MAX_THREADS`], for a processor that is named twice and
    /// where the system refuses one of the processors, or the priority, to a thread.
    pub fn new(options: impl Into<ThreadOptions>) -> Result<Self> {
        let options = options.into();
        let threads = options.threads()?;
        let crew = match &options.host {
            Some(host) => Crew::Host { host: Arc::clone(host), threads },
            None => Self::start(threads, &options)?,
        };
        Ok(Self { crew, turn: Mutex::new(()) })
    }

    /// Starts all workers, each of which takes the place that `options` give it before the first loop.
    fn start(threads: usize, options: &ThreadOptions) -> Result<Crew> {
        if threads == 1 {
            // No worker would find that the place cannot be had.
            system::Place::of(options).try_out()?;
        }
        let slot = Slot { job: None, sleeping: 0, shutdown: false };
        let shared =
            Arc::new(Shared { epoch: AtomicUsize::new(0), slot: Mutex::new(slot), wake: Condvar::new() });
        let (placed, places) = mpsc::channel();
        let place = system::Place::of(options);
        let start = |index: usize| {
            let (shared, placed, place) = (Arc::clone(&shared), placed.clone(), place.clone());
            let name = format!("capsulegraph-{index}");
            let serve = move || {
                // Cannot fail: the receiver lives until all have sent or, where one is refused, have ended.
                let _ = placed.send(place.take());
                drop(placed);
                shared.serve();
            };
            thread::Builder::new().name(name).spawn(serve).ok()
        };
        let workers: Vec<_> = (1..threads).map_while(start).collect();
        drop(placed);
        let refused = places.iter().find_map(std::result::Result::err);
        // Where one is refused, dropping the crew ends the others.
        let crew = Crew::Own { shared, workers };
        refused.map_or(Ok(crew), Err)
    }

    /// Threads that compute, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        match &self.crew {
            Crew::Own { workers, .. } => workers.len() + 1,
            Crew::Host { threads, .. } => *threads,
        }
    }

    /// Calls `f` once for each index in `from .. tasks`, in ascending order of their beginnings. Looks at `gate` before
    /// each, at its clock where what began since took 20 us, or was 8 of a thread's tasks; once a thread has seen it
    /// closed, no further call begins, and all that began are finished before `Paused(next)` is returned. Calls on a
    /// pool that is busy, also from within `f`, run on the caller alone.
    ///
    /// # Panics
    /// A panic of `f`, or of the host's [`ParallelFor::run`], is passed on after all calls that began have ended.
    pub fn run(&self, gate: &Gate, from: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) -> Progress {
        let turn = match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if turn.is_none() || self.threads() == 1 || tasks.saturating_sub(from) <= 1 || tasks >= CLOSED / 2 {
            drop(turn);
            return run_alone(gate, from, tasks, f);
        }
        let (claimed, job) = self.fork(gate, from, tasks, f);
        drop(turn);
        if let Some(payload) = lock(&job.payload).take() {
            resume_unwind(payload);
        }
        if claimed == tasks { Progress::Done } else { Progress::Paused(claimed) }
    }

    /// One parallel loop over all threads; returns the first task not claimed, all below being finished.
    fn fork(&self, gate: &Gate, from: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) -> (usize, Arc<Job>) {
        let short: *const (dyn Fn(usize) + Sync + '_) = f;
        // SAFETY: only the lifetime changes. No call outlives the borrow: from the moment at which others see the
        // job until `finish` has waited for them, nothing here unwinds, the panics of tasks and host being caught.
        let long = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                short,
            )
        };
        let job = Arc::new(Job {
            task: Task(long),
            gate: gate.clone(),
            tasks,
            next: AtomicUsize::new(from),
            finished: AtomicUsize::new(0),
            caller_waits: AtomicBool::new(false),
            caller: thread::current(),
            stopped: AtomicBool::new(false),
            payload: Mutex::new(None),
        });
        match &self.crew {
            Crew::Own { shared, .. } => shared.post(Arc::clone(&job)),
            Crew::Host { host, threads } => {
                // No more threads than tasks; what the host leaves undone is done below. Its panic must not
                // unwind past the wait: threads that it gave the loop to may still be calling `f`.
                let (count, work) = ((tasks - from).min(*threads), SharedLoop(Arc::clone(&job)));
                job.caught(|| host.run(count, &work));
            }
        }
        job.work();
        (job.finish(from), job)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let Self::Own { shared, workers } = self else { return };
        lock(&shared.slot).shutdown = true;
        shared.wake.notify_all();
        for worker in workers.drain(..) {
            // A worker cannot panic: tasks are caught. Its result carries nothing.
            let _ = worker.join();
        }
    }
}

/// A parallel loop in progress, to be joined by threads of the host.
#[derive(Clone)]
pub struct SharedLoop(Arc<Job>);

impl SharedLoop {
    /// Takes part until nothing is left to begin. Returns at once where the loop is over, however long ago.
    pub fn join(&self) {
        let _floats = StandardFloats::enter();
        self.0.work();
    }
}

impl fmt::Debug for SharedLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLoop").field("tasks", &self.0.tasks).finish()
    }
}

/// The loop of [`Pool::run`] on the calling thread.
fn run_alone(gate: &Gate, from: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) -> Progress {
    let mut pace = Pace::new(gate);
    for index in from..tasks {
        if !pace.admits() {
            return Progress::Paused(index);
        }
        f(index);
    }
    Progress::Done
}

/// Spins until `ready` or until [`SPIN`] is over; returns the last answer of `ready`.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let mut begin = None;
    loop {
        for _ in 0..SPINS_PER_READING {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begin.get_or_insert_with(Instant::now).elapsed() >= SPIN {
            return ready();
        }
    }
}

/// Locks, also where a panic of another thread has poisoned the lock: no invariant spans an unlock here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
