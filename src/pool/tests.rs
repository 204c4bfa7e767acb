//! Tests of the pool: every task once, pauses, panics, sharing, sleeping.

#![allow(clippy::expect_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::pace::{MOST, Pace};
use super::{CancelToken, Gate, ParallelFor, Pool, Priority, Progress, SharedLoop, ThreadOptions};

fn pool(threads: usize) -> Pool {
    Pool::new(threads).expect("a pool")
}

/// Runs `tasks` tasks and checks that each was called exactly once.
fn check_once(pool: &Pool, tasks: usize) {
    let calls: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    let count = |i: usize| {
        calls[i].fetch_add(1, Ordering::Relaxed);
    };
    assert_eq!(pool.run(&Gate::open(), 0, tasks, &count), Progress::Done);
    assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 8] {
        let pool = pool(threads);
        assert_eq!(pool.threads(), threads);
        for tasks in [0, 1, 2, 7, 100, 1000] {
            check_once(&pool, tasks);
        }
    }
}

#[test]
fn many_short_loops_with_and_without_sleep() {
    let pool = pool(4);
    for round in 0..5000 {
        check_once(&pool, round % 17);
        if round % 500 == 0 {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

#[test]
fn a_cancelled_loop_pauses_and_resumes() {
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        for stop in 0..40 {
            let token = CancelToken::new();
            let gate = Gate { deadline: None, cancel: Some(token.clone()) };
            let calls: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
            let work = |i: usize| {
                calls[i].fetch_add(1, Ordering::Relaxed);
                if i == stop {
                    token.cancel();
                }
            };
            let next = match pool.run(&gate, 0, 40, &work) {
                Progress::Paused(next) => next,
                Progress::Done => 40,
            };
            for (i, c) in calls.iter().enumerate() {
                assert_eq!(c.load(Ordering::Relaxed), usize::from(i < next));
            }
            token.reset();
            let work = |i: usize| {
                calls[i].fetch_add(1, Ordering::Relaxed);
            };
            assert_eq!(pool.run(&gate, next, 40, &work), Progress::Done);
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn a_closed_gate_admits_nothing() {
    let pool = pool(2);
    let gate = Gate { deadline: Some(Instant::now()), cancel: None };
    assert_eq!(pool.run(&gate, 3, 9, &|_| panic!("called")), Progress::Paused(3));
}

/// Tasks take no time until the deadline, when the clock is read least, and much behind it.
#[test]
fn a_deadline_is_seen_where_tasks_turn_long() {
    for threads in [1, 2, 4] {
        let (pool, late) = (pool(threads), AtomicUsize::new(0));
        let deadline = Instant::now() + Duration::from_millis(20);
        let task = |_| {
            if Instant::now() >= deadline {
                late.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let gate = Gate { deadline: Some(deadline), cancel: None };
        assert!(matches!(pool.run(&gate, 0, usize::MAX / 8, &task), Progress::Paused(_)));
        assert!(late.load(Ordering::Relaxed) <= MOST as usize * threads, "{late:?} began late");
    }
}

#[test]
fn the_clock_is_read_as_seldom_as_tasks_are_short() {
    let far = Gate { deadline: Some(Instant::now() + Duration::from_secs(1000)), cancel: None };
    let mut pace = Pace::new(&far);
    // Admitted without a reading, after tasks that took this long.
    let mut unread = |each: Duration| {
        for _ in 0..100 {
            assert!(pace.admits());
            let begun = Instant::now();
            while begun.elapsed() < each {}
        }
        let mut most = 0;
        for _ in 0..2 * MOST {
            assert!(pace.admits());
            most = most.max(pace.left());
            let begun = Instant::now();
            while begun.elapsed() < each {}
        }
        most
    };
    assert_eq!(unread(Duration::ZERO), MOST - 1);
    assert_eq!(unread(Duration::from_micros(50)), 0);
}

#[test]
fn a_panic_is_passed_on_and_the_pool_survives() {
    let pool = pool(3);
    for at in [0, 5, 49] {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&Gate::open(), 0, 50, &|i| assert!(i != at, "task {i}"));
        }));
        assert!(result.is_err());
        check_once(&pool, 50);
    }
}

#[test]
fn two_callers_share_a_pool() {
    let pool = pool(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..500).for_each(|round| check_once(&pool, round % 13)));
        }
    });
}

#[test]
fn a_task_may_use_its_own_pool() {
    let pool = pool(2);
    let run = |_| check_once(&pool, 8);
    assert_eq!(pool.run(&Gate::open(), 0, 8, &run), Progress::Done);
}

/// A host whose threads join a loop `joins` times, each on a thread of its own.
#[derive(Debug)]
struct Host {
    joins: usize,
    late: Mutex<Vec<SharedLoop>>,
}

impl ParallelFor for Host {
    fn run(&self, count: usize, work: &SharedLoop) {
        assert!(count >= 1);
        std::thread::scope(|scope| (0..self.joins).for_each(|_| drop(scope.spawn(|| work.join()))));
        self.late.lock().expect("unpoisoned").push(work.clone());
    }
}

#[test]
fn the_hosts_threads_do_the_same_work() {
    for joins in [0, 1, 5] {
        let host = Arc::new(Host { joins, late: Mutex::default() });
        let options = ThreadOptions { count: 3, host: Some(host.clone()), ..ThreadOptions::default() };
        let pool = Pool::new(options).expect("a pool");
        assert_eq!(pool.threads(), 3);
        for tasks in [0, 1, 2, 7, 100] {
            check_once(&pool, tasks);
        }
        // A thread that comes after its loop is over finds nothing to do.
        host.late.lock().expect("unpoisoned").iter().for_each(SharedLoop::join);
    }
}

/// A host that gives the loop to a thread and panics while that thread is inside a task.
#[derive(Debug, Default)]
struct BreakingHost {
    broken: AtomicBool,
    begun: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ParallelFor for BreakingHost {
    fn run(&self, _: usize, work: &SharedLoop) {
        if self.broken.load(Ordering::Relaxed) {
            let work = work.clone();
            self.threads.lock().expect("unpoisoned").push(std::thread::spawn(move || work.join()));
            while self.begun.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            panic!("the host breaks");
        }
    }
}

#[test]
fn a_hosts_panic_is_passed_on_once_its_threads_have_let_go() {
    for tasks_panic in [false, true] {
        let host = Arc::new(BreakingHost { broken: true.into(), ..BreakingHost::default() });
        let options = ThreadOptions { count: 2, host: Some(host.clone()), ..ThreadOptions::default() };
        let pool = Pool::new(options).expect("a pool");
        let ended = AtomicUsize::new(0);
        let task = |_| {
            host.begun.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            ended.fetch_add(1, Ordering::Relaxed);
            assert!(!tasks_panic, "a task breaks too");
        };
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(&Gate::open(), 0, 1000, &task)));
        let payload = result.expect_err("a panic");
        let (begun, ended) = (host.begun.load(Ordering::Relaxed), ended.load(Ordering::Relaxed));
        assert!(begun == ended && begun < 1000, "{begun} tasks began, {ended} ended");
        assert!(tasks_panic || payload.downcast_ref::<&str>() == Some(&"the host breaks"));
        host.threads.lock().expect("unpoisoned").drain(..).for_each(|t| t.join().expect("a caught panic"));
        host.broken.store(false, Ordering::Relaxed);
        check_once(&pool, 50);
    }
}

#[test]
fn a_host_is_not_called_where_the_caller_is_enough() {
    let host = Arc::new(Host { joins: 1, late: Mutex::default() });
    for (count, tasks) in [(1, 100), (3, 1), (3, 0)] {
        let options = ThreadOptions { count, host: Some(host.clone()), ..ThreadOptions::default() };
        check_once(&Pool::new(options).expect("a pool"), tasks);
    }
    assert!(host.late.lock().expect("unpoisoned").is_empty());
}

#[test]
fn priorities_have_names() {
    for priority in Priority::ALL {
        assert_eq!(priority.name().to_uppercase().parse::<Priority>().ok(), Some(priority));
    }
    let refused = "high".parse::<Priority>().expect_err("none of them").to_string();
    assert!(refused.contains("\"high\"") && refused.contains("inherited, low, lowest"), "{refused}");
}

#[test]
fn threads_can_be_placed_where_the_system_allows_it() {
    let refused = |options: ThreadOptions| Pool::new(options).expect_err("refused").to_string();
    let host: Arc<dyn ParallelFor> = Arc::new(Host { joins: 0, late: Mutex::default() });
    let both = ThreadOptions { processors: vec![0], host: Some(host), ..ThreadOptions::default() };
    assert!(refused(both).contains("exclude parallel_for"));
    assert!(refused(1025.into()).contains("1025 threads; 1 to 1024"));
    if cfg!(any(target_os = "linux", windows)) {
        let placed = ThreadOptions { count: 2, processors: vec![0], priority: Priority::Low, host: None };
        check_once(&Pool::new(placed).expect("placed"), 100);
        // Also where no worker is started: one thread computes, the caller's.
        for processor in [1000, 1 << 40] {
            for (count, processors) in
                [(3, vec![0, processor]), (1, vec![0, processor]), (0, vec![processor])]
            {
                let message = refused(ThreadOptions { count, processors, ..ThreadOptions::default() });
                assert!(message.contains(&format!("processor {processor} is not allowed")), "{message}");
            }
        }
        let named = ThreadOptions { processors: vec![0], ..ThreadOptions::default() };
        assert_eq!(Pool::new(named).expect("placed").threads(), 1);
    }
    for (count, processors) in [(1, vec![0, 0]), (0, vec![3, 0, 3])] {
        let twice = refused(ThreadOptions { count, processors, ..ThreadOptions::default() });
        assert!(twice.contains("is named twice"), "{twice}");
    }
    for count in [0, 1] {
        let many = refused(ThreadOptions { count, processors: vec![0; 5000], ..ThreadOptions::default() });
        assert!(many.contains("5000 are named; at most 1024"), "{many}");
    }
}
