//! Work on both lanes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    harness::{Net, Plan, eventually},
    probe::{Append, Do, Meet, Saw},
};

fn append(number: u64, done: &Arc<AtomicUsize>) -> Append {
    Append { number, takes: Duration::from_millis(1), done: Arc::clone(done) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_is_in_order_on_one_thread_and_computing_in_parallel() {
    let mut plan = Plan::new(1);
    plan.driver.compute_threads = 3;
    let mut node = plan.start(&Net::memory()).await;
    let done = Arc::new(AtomicUsize::new(0));
    for number in 0..50 {
        node.order(Do::Store(number, append(number, &done))).await;
    }
    // None of the three ends before all three run, while storage goes on beside them.
    let together = Arc::new(Barrier::new(3));
    for number in 0..3 {
        node.order(Do::Compute(number, Meet(Arc::clone(&together)))).await;
    }
    let mut threads = BTreeSet::new();
    for _ in 0..3 {
        match node.see("a result", |saw| matches!(saw, Saw::Computed(..))).await {
            Saw::Computed(id, thread) => assert!(threads.insert((id, format!("{thread:?}")))),
            other => unreachable!("{other:?}"),
        }
    }
    assert_eq!(threads.iter().map(|(_, thread)| thread).collect::<BTreeSet<_>>().len(), 3, "three threads");
    for number in 0..50 {
        // Its result is the length of a disk that is in order and of one thread.
        let expected = Saw::Stored(number, number as usize + 1);
        assert_eq!(node.see("a result", |saw| matches!(saw, Saw::Stored(..))).await, expected);
    }
    eventually("jobs are paid back", || node.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_storage_jobs_that_are_queued() {
    let node = Plan::new(1).start(&Net::memory()).await;
    let done = Arc::new(AtomicUsize::new(0));
    for number in 0..100 {
        node.order(Do::Store(number, append(number, &done))).await;
    }
    let other = node.handle.clone();
    // Two at once: neither returns early.
    tokio::join!(node.handle.shutdown(), other.shutdown());
    assert_eq!(done.load(Ordering::Relaxed), 100);
    assert!(node.handle.inspect(|_| ()).await.is_err(), "it is stopped");
    node.handle.shutdown().await;
}
