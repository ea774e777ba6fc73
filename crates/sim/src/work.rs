//! The two job lanes, and crashes.

use core::time::Duration;
use peerage_core::{CloseReason, Closed, Done, Job, JobId, Lane, Pool, Protocol};

use crate::{CrashAt, CrashPoint, Sim, digest::Kind, node::Work, sim::Event};

impl<P: Protocol> Sim<P> {
    /// Lets a storage job crash its node. Several rules may stand; one that named a certain job is used up by it, and a
    /// crash forgets none of the others.
    pub fn crash_on_job(&mut self, node: usize, point: CrashPoint, at: CrashAt) {
        self.nodes[node].crashes.push((point, at));
    }

    pub(crate) fn store(&mut self, node: usize, id: JobId, job: P::Storage) {
        let this = &mut self.nodes[node];
        // A job cannot be refused any more: whoever asked for it should have charged for it. So a full ledger is ignored.
        let charge = this.budget.charge(Pool::Job, job.cost().bytes).ok();
        this.storage.push_back(Work { id, job, _charge: charge });
        if this.storage.len() == 1 {
            self.begin_storage(node);
        }
    }

    fn begin_storage(&mut self, node: usize) {
        let this = &self.nodes[node];
        if let Some(work) = this.storage.front() {
            self.queue.push(self.now.mono + work.job.cost().time, Event::Stored { node, life: this.life });
        }
    }

    /// The job takes effect at the end of its time: a crash in the middle finds nothing done.
    pub(crate) fn stored(&mut self, node: usize) {
        let crash = self.crash_of_this_job(node);
        if crash == Some(CrashPoint::Before) {
            return self.crash_now(node);
        }
        let this = &mut self.nodes[node];
        let Some(work) = this.storage.pop_front() else { return };
        let output = work.job.run(this.resource.as_mut().expect("a running node has its disk"));
        if crash == Some(CrashPoint::After) {
            return self.crash_now(node);
        }
        if let Some(stack) = &mut this.stack {
            stack.done(work.id, Done::Stored(output));
        }
        self.note_done(node, Lane::Storage, work.id);
        self.touch(node);
        self.begin_storage(node);
    }

    fn crash_of_this_job(&mut self, node: usize) -> Option<CrashPoint> {
        let (faults, mut hit) = (&mut self.faults, None);
        self.nodes[node].crashes.retain_mut(|(point, at)| {
            let (hits, stays) = match at {
                CrashAt::Job(left) => {
                    *left = left.saturating_sub(1);
                    (*left == 0, *left > 0)
                }
                CrashAt::Chance(chance) => {
                    let dice = Self::below(faults, 1 << 32) as f64 / (1_u64 << 32) as f64;
                    (dice < *chance, true)
                }
            };
            if hits {
                hit = hit.or(Some(*point));
            }
            stays
        });
        hit
    }

    pub(crate) fn compute(&mut self, node: usize, id: JobId, job: P::Compute) {
        let this = &mut self.nodes[node];
        let charge = this.budget.charge(Pool::Job, job.cost().bytes).ok();
        this.compute.push(Work { id, job, _charge: charge });
        self.begin_compute(node);
    }

    /// Free workers take any of the waiting jobs, and a job takes up to half as long again as it said: no protocol may
    /// count on an order.
    fn begin_compute(&mut self, node: usize) {
        let workers = self.config.compute_workers.max(1);
        let this = &mut self.nodes[node];
        while this.computing < workers && !this.compute.is_empty() {
            let chosen = Self::below(&mut self.lanes, this.compute.len() as u64) as usize;
            let work = this.compute.swap_remove(chosen);
            let cost = work.job.cost().time;
            let extra = Self::below(&mut self.lanes, u64::try_from(cost.as_nanos() / 2).unwrap_or(u64::MAX));
            this.computing += 1;
            let at = self.now.mono + cost + Duration::from_nanos(extra);
            self.queue.push(at, Event::Computed { node, life: this.life, work });
        }
    }

    pub(crate) fn computed(&mut self, node: usize, work: Work<P::Compute>) {
        let output = work.job.run(&mut ());
        let this = &mut self.nodes[node];
        this.computing -= 1;
        if let Some(stack) = &mut this.stack {
            stack.done(work.id, Done::Computed(output));
        }
        self.note_done(node, Lane::Compute, work.id);
        self.touch(node);
        self.begin_compute(node);
    }

    pub(crate) fn crash_now(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.stack.take().is_none() {
            return;
        }
        this.life += 1;
        this.wake = None;
        this.heartbeat = None;
        this.storage.clear();
        this.compute.clear();
        this.computing = 0;
        self.hash.note(self.now.mono, node, Kind::Crash, 0);
        // The operating system closes the streams of a dead process.
        for link in core::mem::take(&mut this.links) {
            self.end(link, Closed::by_us(CloseReason::StreamEnded));
            self.tell_closed(link, Closed::by_network(CloseReason::StreamEnded));
        }
        debug_assert!(self.nodes[node].peers.is_empty(), "a peer without a link");
    }
}
