//! One story at a time, and what it made the counters count.

use std::{collections::BTreeMap, future::Future, time::Duration};

use peerage_core::{CloseReason, ClosedBy, DropReason};
use tokio::sync::{Mutex, MutexGuard};

use crate::counters;

/// What waits longer fails: far beyond what any of it takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static ALONE: Mutex<()> = Mutex::const_new(());

/// The right to run alone, and the counters as they were when the story began.
pub(crate) struct Stage {
    before: BTreeMap<String, u64>,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let alone = ALONE.lock().await;
        Self { before: counters::read(), _alone: alone }
    }

    /// Begins to count anew.
    pub(crate) fn again(&mut self) {
        self.before = counters::read();
    }

    /// What was counted since the story began.
    pub(crate) fn counted(&self) -> BTreeMap<String, u64> {
        let mut now = counters::read();
        for (name, before) in &self.before {
            now.entry(name.clone()).and_modify(|count| *count -= before);
        }
        now.retain(|_, count| *count > 0);
        now
    }

    /// Exactly this is counted, now or soon, and nothing else.
    pub(crate) async fn counts(&self, expected: impl IntoIterator<Item = (String, u64)>) {
        let expected: BTreeMap<_, _> = expected.into_iter().filter(|(_, count)| *count > 0).collect();
        let waiting = async {
            while self.counted() != expected {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("counted {:#?}, but expected {expected:#?}", self.counted());
        }
    }

    /// So many connections were ended by the victim for this reason, and nothing else is counted.
    pub(crate) async fn ended(&self, reason: CloseReason, times: u64) {
        self.counts([by_us(reason, times)]).await;
    }
}

/// The victim ended so many connections for this reason.
pub(crate) fn by_us(reason: CloseReason, times: u64) -> (String, u64) {
    (counters::closed(ClosedBy::Us, reason), times)
}

/// The other side ended so many and said this reason.
pub(crate) fn by_them(reason: CloseReason, times: u64) -> (String, u64) {
    (counters::closed(ClosedBy::Them, reason), times)
}

/// So many streams broke.
pub(crate) fn by_network(reason: CloseReason, times: u64) -> (String, u64) {
    (counters::closed(ClosedBy::Network, reason), times)
}

/// So many messages were dropped.
pub(crate) fn dropped(reason: DropReason, times: u64) -> (String, u64) {
    (counters::dropped(reason), times)
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Waits until a condition holds that no event announces.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time(what, looking).await;
}
