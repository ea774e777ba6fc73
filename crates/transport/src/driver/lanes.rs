//! Two lanes for jobs: storage (one thread, in order) and compute (a few threads, in no order).

use peerage_core::{Budget, Charge, Done, Job, JobId, Pool, Protocol};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};
use tokio::sync::mpsc::UnboundedSender;

/// Says that a thread of a lane died with its job: a panic is a bug here, and a store in an unknown state must not go on.
struct DeathGuard(UnboundedSender<&'static str>, &'static str);

impl Drop for DeathGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            // If the stack is gone too, nobody needs to know.
            let _unheard = self.0.send(self.1);
        }
    }
}

type Queued<J> = (JobId, J, Option<Charge>);

/// Both lanes. Dropping them ends the threads once their queues are empty; [`Lanes::finish`] also waits for that.
pub(super) struct Lanes<P: Protocol> {
    budget: Budget,
    storage: Option<mpsc::Sender<Queued<P::Storage>>>,
    compute: Option<mpsc::Sender<Queued<P::Compute>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<P> Lanes<P>
where
    P: Protocol + 'static,
{
    /// Starts the threads; results go to `done`, the name of a lane that died goes to `died`.
    ///
    /// # Errors
    /// Of the machine: no thread can be started.
    pub(super) fn start(
        budget: Budget,
        compute_threads: usize,
        mut store: <P::Storage as Job>::Resource,
        done: UnboundedSender<(JobId, Done<P>)>,
        died: UnboundedSender<&'static str>,
    ) -> io::Result<Self> {
        let mut threads = Vec::new();
        let (storage, jobs) = mpsc::channel::<Queued<P::Storage>>();
        let results = done.clone();
        let guard = DeathGuard(died.clone(), "storage");
        threads.push(thread::Builder::new().name("peerage-storage".into()).spawn(move || {
            let _guard = guard;
            for (id, job, _charge) in jobs {
                let output = job.run(&mut store);
                if results.send((id, Done::Stored(output))).is_err() {
                    tracing::debug!("a storage job finished after its stack was gone");
                }
            }
        })?);
        let (compute, jobs) = mpsc::channel::<Queued<P::Compute>>();
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..compute_threads.max(1) {
            let (jobs, results) = (Arc::clone(&jobs), done.clone());
            let guard = DeathGuard(died.clone(), "compute");
            threads.push(thread::Builder::new().name(format!("peerage-compute-{number}")).spawn(move || {
                let _guard = guard;
                loop {
                    let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((id, job, _charge)) = next else { break };
                    if results.send((id, Done::Computed(job.run(&mut ())))).is_err() {
                        break; // nobody waits for the rest either
                    }
                }
            })?);
        }
        Ok(Self { budget, storage: Some(storage), compute: Some(compute), threads })
    }

    pub(super) fn store(&self, id: JobId, job: P::Storage) {
        let charge = self.charge(&job);
        let lane = self.storage.as_ref().expect("the lane is there until `finish` consumes it");
        if lane.send((id, job, charge)).is_err() {
            tracing::error!("the storage lane is gone: its thread ended early");
        }
    }

    pub(super) fn compute(&self, id: JobId, job: P::Compute) {
        let charge = self.charge(&job);
        let lane = self.compute.as_ref().expect("the lane is there until `finish` consumes it");
        if lane.send((id, job, charge)).is_err() {
            tracing::error!("the compute lane is gone: its threads ended early");
        }
    }

    /// A job that does not fit the budget runs all the same: what it works on is paid for already, and running it is
    /// what frees memory. It is counted.
    fn charge(&self, job: &impl Job) -> Option<Charge> {
        let charge = self.budget.charge(Pool::Job, job.cost().bytes).ok();
        if charge.is_none() {
            metrics::counter!("peerage_jobs_over_budget_total").increment(1);
        }
        charge
    }

    /// Runs what is queued to its end and waits for the threads. Blocks.
    pub(super) fn finish(mut self) {
        self.storage = None;
        self.compute = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a job panicked");
            }
        }
    }
}
