//! What passes over all connections of a node, and its limits.

use core::num::NonZeroU64;
use std::collections::BTreeMap;

use peerage_core::PerClass;
use peerage_transport::driver::BandwidthReport;
use serde::{Deserialize, Serialize};

/// Bytes of all connections, as they hand them to their streams and take them from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Written since the start.
    pub sent_bytes: u64,
    /// Read since the start.
    pub received_bytes: u64,
    /// Bytes a second that may be written, if that is limited.
    pub egress_limit: Option<NonZeroU64>,
    /// Bytes a second that may be read, if that is limited.
    pub ingress_limit: Option<NonZeroU64>,
    /// Bytes written while there was a limit, by class.
    pub granted_bytes: BTreeMap<String, u64>,
    /// Connections that wait to write something of a class because of the limit.
    pub waiting_to_write: BTreeMap<String, u64>,
    /// Connections that wait to read because of the limit.
    pub waiting_to_read: u64,
    /// Credit of others that is held back because of the limit, in bytes.
    pub held_credit_bytes: u64,
}

impl From<BandwidthReport> for Traffic {
    fn from(report: BandwidthReport) -> Self {
        let BandwidthReport { sent, received, egress, ingress } = report;
        let by_class =
            |values: PerClass<u64>| values.iter().map(|(class, value)| (class.label().into(), *value)).collect();
        Self {
            sent_bytes: sent,
            received_bytes: received,
            egress_limit: egress.limit,
            ingress_limit: ingress.limit,
            granted_bytes: by_class(egress.written),
            waiting_to_write: by_class(PerClass::from_fn(|class| egress.waiting[class] as u64)),
            waiting_to_read: ingress.waiting as u64,
            held_credit_bytes: ingress.held,
        }
    }
}
