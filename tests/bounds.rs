//! What a host asks for beyond the memory that the system gives is refused, and what it has stays usable.
#![allow(clippy::expect_used, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod support;

use std::sync::Arc;
use std::time::Instant;

use capsulegraph::Error;
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::decoder::kv::KvCache;
use capsulegraph::generate::bench::{BenchOptions, bench};
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{Session, SessionOptions};
use capsulegraph::kernels::kv::KvFormat;
use capsulegraph::store::Origin;
use support::TinyModel;

/// Address space that is left free.
const LEFT: u64 = 96 << 20;

fn model() -> Arc<Model> {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("m.gguf"), dir.path().join("m.cgraph"));
    TinyModel::default().write(&source);
    convert(&source, &target, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
    // The file stays while it is mapped.
    Arc::new(Model::open(&Origin::Path(target), &ModelOptions::default()).unwrap())
}

/// Runs `f` with an address space of which [`LEFT`] is free.
fn short_of_memory<T>(f: impl FnOnce() -> T) -> T {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let size = text.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    let mut former = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place lives until the call returns.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut former) }, 0);
    let set = |limit: u64| {
        let limit = libc::rlimit { rlim_cur: limit, ..former };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    };
    set(size * 1024 + LEFT);
    let result = f();
    set(former.rlim_cur);
    result
}

fn bits(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    session.truncate(0);
    session.eval(tokens, true, None).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

fn limit<T>(result: Result<T, Error>, part: &str) {
    match result {
        Err(Error::Limit(message)) => assert!(message.contains(part), "{message}"),
        Err(other) => panic!("{part}: {other}"),
        Ok(_) => panic!("{part}: it was not refused"),
    }
}

/// One test: the limit is the whole process's.
#[test]
fn what_does_not_fit_the_memory_is_refused_and_the_rest_goes_on() {
    let model = model();
    let options = SessionOptions { context: 100_000, ..SessionOptions::default() };
    let mut session = Session::new(Arc::clone(&model), &options).unwrap();
    let tokens: Vec<u32> = (0..100_000).map(|i| i % 250).collect();
    let wanted = bits(&mut session, &tokens[..40]);
    let params = model.decoder().params();
    short_of_memory(|| {
        for kv_format in KvFormat::ALL {
            let one = KvCache::bytes_for(params, 1 << 16, kv_format) >> 16;
            // One that is probed as a whole, and one of which the last layers are refused.
            for bytes in [4 * LEFT, 2 * LEFT] {
                let context = (bytes / one) as usize;
                let options = SessionOptions { context, kv_format, ..SessionOptions::default() };
                let session = Session::new(Arc::clone(&model), &options);
                limit(session, &format!("a KV cache of {context} positions, which takes"));
            }
        }
        for n in [60_000, 100_000] {
            session.truncate(0);
            limit(
                session.eval(&tokens[..n], true, None),
                &format!("no room to evaluate {n} tokens together"),
            );
            assert!(session.tokens().is_empty());
            assert!(session.buffer_bytes() < 1 << 20, "{} bytes are kept", session.buffer_bytes());
            assert_eq!(bits(&mut session, &tokens[..40]), wanted, "after {n} tokens");
        }
    });
    let many = BenchOptions { prompts: vec![4], repeat: usize::MAX, ..BenchOptions::default() };
    let refused = bench(&mut session, &many, Instant::now(), None, &mut |_, _| {});
    assert!(matches!(refused, Err(Error::InvalidArgument(message)) if message.contains("1 to 1000000")));
}
