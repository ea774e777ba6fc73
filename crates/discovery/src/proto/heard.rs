//! Records of nodes that were only heard of.

use std::collections::{BTreeMap, VecDeque};

use peerage_core::{Budget, Charge, NodeId, Pool};

use super::record::NodeRecord;
use crate::config::{ENTRY_BYTES, HEARD};

/// The latest records that others passed on: so that a signature is checked once, however often a record comes, and
/// that a contradiction shows.
#[derive(Debug)]
pub(crate) struct Heard {
    records: BTreeMap<NodeId, (NodeRecord, Charge)>,
    order: VecDeque<NodeId>,
    budget: Budget,
}

impl Heard {
    pub(crate) const fn new(budget: Budget) -> Self {
        Self { records: BTreeMap::new(), order: VecDeque::new(), budget }
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&NodeRecord> {
        self.records.get(node).map(|(record, _)| record)
    }

    /// Remembers a record, unless a newer one of the node is known; says whether the node was not known before. The
    /// oldest is forgotten when there are too many, and nothing new is remembered while the budget is exhausted.
    pub(crate) fn insert(&mut self, record: NodeRecord) -> bool {
        let node = record.node();
        if let Some((known, _)) = self.records.get_mut(&node) {
            if record.supersedes(known) {
                *known = record;
            }
            return false;
        }
        if self.order.len() == HEARD
            && let Some(oldest) = self.order.pop_front()
        {
            self.records.remove(&oldest);
        }
        if let Ok(charge) = self.budget.charge(Pool::Table, ENTRY_BYTES) {
            self.order.push_back(node);
            self.records.insert(node, (record, charge));
        }
        true
    }
}
