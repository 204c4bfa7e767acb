//! Tests of the pool: every task once, pauses, panics, sharing, sleeping.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{CancelToken, Gate, Pool, Progress};

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
    for threads in [0, 1, 2, 3, 8] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for tasks in [0, 1, 2, 7, 100, 1000] {
            check_once(&pool, tasks);
        }
    }
}

#[test]
fn many_short_loops_with_and_without_sleep() {
    let pool = Pool::new(4);
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
        let pool = Pool::new(threads);
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
    let pool = Pool::new(2);
    let gate = Gate { deadline: Some(Instant::now()), cancel: None };
    assert_eq!(pool.run(&gate, 3, 9, &|_| panic!("called")), Progress::Paused(3));
}

#[test]
fn a_panic_is_passed_on_and_the_pool_survives() {
    let pool = Pool::new(3);
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
    let pool = Pool::new(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..500).for_each(|round| check_once(&pool, round % 13)));
        }
    });
}

#[test]
fn a_task_may_use_its_own_pool() {
    let pool = Pool::new(2);
    let run = |_| check_once(&pool, 8);
    assert_eq!(pool.run(&Gate::open(), 0, 8, &run), Progress::Done);
}
