//! What the driver counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use peerage_core::{CloseReason, ClosedBy, DropReason};

type Counters = Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>;

/// Counters by name and labels; nothing else is recorded.
struct Ledger(Counters);

impl Recorder for Ledger {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        // Traffic is different each time.
        if key.name().ends_with("_bytes_total") {
            return Counter::noop();
        }
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Counter::from_arc(Arc::clone(counters.entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// All counters that are not zero.
pub(crate) fn read() -> BTreeMap<String, u64> {
    static COUNTERS: OnceLock<Counters> = OnceLock::new();
    let counters = COUNTERS.get_or_init(|| {
        let counters = Counters::default();
        metrics::set_global_recorder(Ledger(Arc::clone(&counters))).expect("installed once");
        counters
    });
    let counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
    let read = counters.iter().map(|(name, counter)| (name.clone(), counter.load(Ordering::Relaxed)));
    read.filter(|(_, count)| *count > 0).collect()
}

/// The counter of connections that ended in this way.
pub(crate) fn closed(by: ClosedBy, reason: CloseReason) -> String {
    format!("peerage_connections_closed_total{{by={},reason={}}}", by.label(), reason.label())
}

/// The counter of messages that were dropped for this reason.
pub(crate) fn dropped(reason: DropReason) -> String {
    format!("peerage_messages_dropped_total{{reason={}}}", reason.label())
}
