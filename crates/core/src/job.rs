//! Disk and heavy verification: work that leaves the pure machine without leaving the simulation.

use core::{convert::Infallible, time::Duration};

/// The name of one piece of work, chosen by the protocol that asked for it and unique within that protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Where a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// First in, first out, on the one thread that owns the store.
    Storage,
    /// A bounded pool of threads, in no order.
    Compute,
}

/// What a job costs. The simulator delivers its result that much later; the real machine just takes its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time on the lane, as estimated by the job.
    pub time: Duration,
    /// Bytes that the job holds while it waits, for the budget.
    pub bytes: usize,
}

/// A piece of work that touches a resource: a store, or nothing (`()`) for pure computation.
pub trait Job: Send + 'static {
    /// What comes back to [`Protocol::handle_done`](crate::Protocol::handle_done).
    type Output: Send + 'static;
    /// What the job works on. The lane owns it; jobs borrow it one at a time.
    type Resource: Send + 'static;

    /// An estimate before it runs.
    fn cost(&self) -> Cost;

    /// Does the work. Failure is part of the output: a job does not panic on what it finds on disk.
    fn run(self, resource: &mut Self::Resource) -> Self::Output;
}

/// For protocols that have no work of this kind: there is no such job.
#[derive(Clone, Copy, Debug)]
pub enum NoJob {}

impl Job for NoJob {
    type Output = Infallible;
    type Resource = ();

    fn cost(&self) -> Cost {
        match *self {}
    }

    fn run(self, (): &mut ()) -> Infallible {
        match self {}
    }
}
