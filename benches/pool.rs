//! Cost of a parallel loop: `cargo bench --bench pool [-- --json]`. Two threads share 16 tasks that together take
//! about 5, 20 or 100 us alone; the loops follow each other at once or after a pause. Compared: the library's
//! pool, rayon, and no sharing. Medians of the time of one loop in us; less is better. `--json` prints one array.

#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use capsulegraph::pool::{Gate, Pool};
use rayon::prelude::*;
use serde_json::{Value, json};

const THREADS: usize = 2;
const TASKS: usize = 16;
const LOOPS: usize = 2000;

/// Work of a task: so many dependent multiplications, about a nanosecond each.
fn work(steps: usize) {
    let mut value = black_box(3u64);
    for _ in 0..steps {
        value = value.wrapping_mul(value | 1);
    }
    black_box(value);
}

/// Median time of one loop in us, with `pause` before each.
fn median(pause: Duration, mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..LOOPS)
        .map(|_| {
            std::thread::sleep(pause);
            let begin = Instant::now();
            run();
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[LOOPS / 2]
}

fn main() {
    let own = Pool::new(THREADS).expect("a pool");
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("a pool");
    let mut rows = Vec::new();
    for (pauses, pause) in [("none", Duration::ZERO), ("1 ms", Duration::from_millis(1))] {
        for steps in [300, 1200, 6000] {
            let alone = median(pause, || (0..TASKS).for_each(|_| work(steps)));
            let ours = median(pause, || {
                own.run(&Gate::open(), 0, TASKS, &|_| work(steps));
            });
            // As a forward pass would use it: inside the pool, no hand-over from the calling thread.
            let theirs = rayon.install(|| {
                median(pause, || (0..TASKS).into_par_iter().with_max_len(1).for_each(|_| work(steps)))
            });
            rows.push((pauses, alone, ours, theirs));
        }
    }
    if std::env::args().any(|a| a == "--json") {
        let row = |(pause, alone, own, rayon)| json!({ "pause": pause, "alone": alone, "own": own, "rayon": rayon });
        println!("{}", Value::from_iter(rows.into_iter().map(row)));
        return;
    }
    for (pause, alone, own, rayon) in rows {
        println!("pause {pause:5}: alone {alone:7.1} us, own pool {own:7.1} us, rayon {rayon:7.1} us");
    }
}
