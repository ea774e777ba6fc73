//! Time, memory and order statistics.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use tokio::runtime::{Builder, Runtime};

/// CPU time that this process used so far, user and system, all threads, in seconds: what `getrusage` gives, but to the
/// nanosecond.
pub(crate) fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Bytes of a process that are in memory.
pub(crate) fn resident(pid: u32) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("the process lives, on Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.expect("a second number") * rustix::param::page_size() as f64
}

/// Lets the process open as many files as the system permits it, and says how many.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // If even that is refused, the old limit stands.
    let _refused = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A span of work: what it took on the clock and on the processors, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// Measures from [`Watch::start`] on.
pub(crate) struct Watch(Instant, f64);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    pub(crate) fn read(&self) -> Spent {
        Spent { wall: self.0.elapsed().as_secs_f64(), cpu: cpu() - self.1 }
    }
}

/// CPU nanoseconds of one call, measured over about `budget`.
pub(crate) fn each(budget: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let (watch, mut calls) = (Watch::start(), 0_u64);
    // The clock is read once in a while, so that short calls are not measured with it.
    let mut batch = 1;
    while watch.read().wall < budget.as_secs_f64() {
        (0..batch).for_each(|_| call());
        calls += batch;
        batch = (batch * 2).min(1 + calls / 8);
    }
    watch.read().cpu * 1e9 / calls as f64
}

/// The value below which the share `p` of the values lies (nearest rank).
pub(crate) fn quantile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * p).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The least and the greatest value.
pub(crate) fn range(values: &[f64]) -> [f64; 2] {
    [quantile(values, 0.0), quantile(values, 1.0)]
}

/// A runtime as the peers are measured on: two workers, whatever the machine has.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be started")
}

/// Runs on a worker of `runtime`: the calling thread is none, and pays more for each wake-up.
pub(crate) fn on_worker<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    runtime.block_on(async { tokio::spawn(work).await.expect("the work does not panic") })
}
