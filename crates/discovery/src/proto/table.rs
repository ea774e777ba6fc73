//! The routing table: k-buckets with replacement caches.
//!
//! Whoever is in it proved its key and its address to us. Old is good (Maymounkov and Mazières 2002, 2.2): a full bucket
//! keeps whom it has, and a newcomer waits until one of them failed three times in a row.

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};

use peerage_core::{Budget, Charge, NodeId, Pool, Timestamp, UnixMillis};
use peerage_transport::proto::{admission::Group, peer_manager::AddressPolicy};

use super::{
    key::{DhtKey, Distance},
    record::NodeRecord,
};
use crate::config::{CHECK, ENTRY_BYTES, GROUP_IN_BUCKET, GROUP_IN_TABLE, K, MAX_FAILURES, REFRESH, REPLACEMENTS};

/// A node in the table.
#[derive(Debug)]
pub struct Entry {
    /// What it says about itself; the address in it was seen to be its own.
    pub record: NodeRecord,
    /// When it was last known to be alive.
    pub last_seen: Timestamp,
    /// Whether it is connected now.
    pub connected: bool,
    /// How often in a row it could not be reached or did not answer.
    pub failures: u8,
    /// The subnet for which it counts: that from which it came, as what it says of itself is free. `None` if it counts for
    /// none.
    group: Option<Group>,
    _charge: Charge,
}

impl Entry {
    /// Whether its place is free for another.
    const fn is_gone(&self) -> bool {
        !self.connected && self.failures >= MAX_FAILURES
    }
}

/// What became of a newcomer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the table now.
    Added,
    /// It was in the table before.
    Updated,
    /// Its bucket is full: it waits for a place.
    Waiting {
        /// The least recently seen node of the bucket, if it is time to see whether it lives.
        check: Option<NodeRecord>,
    },
    /// It has no place: it is we ourselves, too many of its subnet are here, or the budget is exhausted.
    Refused,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Least recently seen first.
    entries: Vec<Entry>,
    /// Oldest first.
    replacements: VecDeque<Entry>,
    checked: Option<Timestamp>,
}

/// The routing table of one node.
#[derive(Debug)]
pub struct Table {
    own: DhtKey,
    addresses: AddressPolicy,
    buckets: BTreeMap<u8, Bucket>,
    groups: BTreeMap<Group, usize>,
    /// When something in the range of a bucket was last looked up.
    touched: BTreeMap<u8, Timestamp>,
    budget: Budget,
}

impl Table {
    /// An empty table around `own`. Only under [`AddressPolicy::Loopback`] are nodes on the loopback interface free of the
    /// limits of subnets.
    pub const fn new(own: DhtKey, addresses: AddressPolicy, budget: Budget) -> Self {
        Self { own, addresses, buckets: BTreeMap::new(), groups: BTreeMap::new(), touched: BTreeMap::new(), budget }
    }

    /// How many nodes there are, without those that wait for a place.
    pub fn len(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.entries.len()).sum()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes, nearest bucket first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.values().flat_map(|bucket| &bucket.entries)
    }

    /// A node, if it is in the table.
    pub fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.bucket_of(node)?.entries.iter().find(|entry| entry.record.node() == *node)
    }

    /// The nodes closest to `target` of those that `wanted` lets pass, closest first, at most `limit`.
    pub fn closest(&self, target: &DhtKey, limit: usize, wanted: impl Fn(&Entry) -> bool) -> Vec<&NodeRecord> {
        let wanted = self.entries().filter(|entry| wanted(entry));
        let mut nodes: Vec<_> = wanted.map(|entry| (entry.record.key().distance(target), &entry.record)).collect();
        nodes.sort_unstable_by_key(|(distance, _)| *distance);
        nodes.truncate(limit);
        nodes.into_iter().map(|(_, record)| record).collect()
    }

    /// A node is connected from `ip`, and its record is verified and names that address.
    pub fn insert(&mut self, now: Timestamp, record: NodeRecord, ip: IpAddr) -> Inserted {
        let Some(number) = self.distance(&record.node()).bucket() else { return Inserted::Refused };
        let group = self.group(ip);
        if self.renew(number, now, &record, group) {
            return Inserted::Updated;
        }
        let bucket = self.buckets.entry(number).or_default();
        bucket.replacements.retain(|waiting| waiting.record.node() != record.node());
        let Ok(charge) = self.budget.charge(Pool::Table, ENTRY_BYTES) else { return Inserted::Refused };
        let entry = Entry { record, last_seen: now, connected: true, failures: 0, group, _charge: charge };
        if bucket.entries.len() == K
            && let Some(gone) = bucket.entries.iter().position(Entry::is_gone)
        {
            let gone = bucket.entries.remove(gone);
            release(&mut self.groups, gone.group);
        }
        if bucket.entries.len() < K {
            if !admits(&self.groups, bucket, group) {
                return Inserted::Refused;
            }
            claim(&mut self.groups, group);
            bucket.entries.push(entry);
            return Inserted::Added;
        }
        if bucket.replacements.len() == REPLACEMENTS {
            bucket.replacements.pop_front();
        }
        bucket.replacements.push_back(entry);
        let due = bucket.checked.is_none_or(|at| now.since(at) >= CHECK);
        let check = bucket.entries.iter().find(|entry| due && !entry.connected).map(|entry| entry.record.clone());
        if check.is_some() {
            bucket.checked = Some(now);
        }
        Inserted::Waiting { check }
    }

    /// Updates a node that is in the table and says whether it is. A record from a new address that would pass the limit of
    /// its subnet is not taken over.
    fn renew(&mut self, number: u8, now: Timestamp, record: &NodeRecord, group: Option<Group>) -> bool {
        let Some(bucket) = self.buckets.get_mut(&number) else { return false };
        let Some(at) = bucket.entries.iter().position(|entry| entry.record.node() == record.node()) else {
            return false;
        };
        let mut entry = bucket.entries.remove(at);
        if !entry.record.supersedes(record) {
            release(&mut self.groups, entry.group);
            if admits(&self.groups, bucket, group) {
                (entry.record, entry.group) = (record.clone(), group);
            }
            claim(&mut self.groups, entry.group);
        }
        (entry.last_seen, entry.failures, entry.connected) = (now, 0, true);
        bucket.entries.push(entry);
        true
    }

    /// A node proved to be alive. Nothing happens if it is not in the table.
    pub fn seen(&mut self, now: Timestamp, node: &NodeId) {
        let Some(bucket) = self.bucket_of_mut(node) else { return };
        if let Some(at) = bucket.entries.iter().position(|entry| entry.record.node() == *node) {
            let mut entry = bucket.entries.remove(at);
            (entry.last_seen, entry.failures) = (now, 0);
            bucket.entries.push(entry);
        }
    }

    /// A node connected or disconnected. It stays in the table either way.
    pub fn set_connected(&mut self, node: &NodeId, connected: bool) {
        let Some(bucket) = self.bucket_of_mut(node) else { return };
        let all = bucket.entries.iter_mut().chain(&mut bucket.replacements);
        all.filter(|entry| entry.record.node() == *node).for_each(|entry| entry.connected = connected);
    }

    /// A node could not be reached or did not answer. Says whether another took its place.
    pub fn failed(&mut self, node: &NodeId) -> bool {
        let Some(number) = self.distance(node).bucket() else { return false };
        let Some(bucket) = self.buckets.get_mut(&number) else { return false };
        bucket.replacements.retain(|waiting| waiting.connected || waiting.record.node() != *node);
        let Some(at) = bucket.entries.iter().position(|entry| entry.record.node() == *node) else { return false };
        let entry = &mut bucket.entries[at];
        entry.failures = entry.failures.saturating_add(1);
        if !entry.is_gone() || bucket.replacements.is_empty() {
            return false;
        }
        let gone = bucket.entries.remove(at);
        release(&mut self.groups, gone.group);
        self.promote(number);
        true
    }

    /// Forgets disconnected nodes whose record is void at `wall`, and says whether there were any.
    pub fn prune(&mut self, wall: UnixMillis) -> bool {
        let before = self.len();
        for bucket in self.buckets.values_mut() {
            bucket.replacements.retain(|waiting| waiting.record.is_current(wall));
            for gone in bucket.entries.extract_if(.., |entry| !entry.connected && !entry.record.is_current(wall)) {
                release(&mut self.groups, gone.group);
            }
        }
        let changed = self.len() != before;
        let numbers: Vec<_> = self.buckets.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.promote(number));
        changed
    }

    /// Fills free places of a bucket with those who wait, the latest first.
    fn promote(&mut self, number: u8) {
        let Some(bucket) = self.buckets.get_mut(&number) else { return };
        while bucket.entries.len() < K
            && let Some(entry) = bucket.replacements.pop_back()
        {
            if admits(&self.groups, bucket, entry.group) {
                claim(&mut self.groups, entry.group);
                // Whoever waited was seen later than those who stand before it, or about then.
                bucket.entries.push(entry);
            }
        }
    }

    /// Something near `target` is looked up now.
    pub fn touch(&mut self, now: Timestamp, target: &DhtKey) {
        if let Some(bucket) = self.own.distance(target).bucket() {
            self.touched.insert(bucket, now);
        }
    }

    /// Buckets in whose range nothing was looked up for ten minutes, from the farthest to that of the nearest node: nearer
    /// ones are empty in all likelihood.
    pub fn idle(&self, now: Timestamp) -> Vec<u8> {
        let occupied = self.buckets.iter().find(|(_, bucket)| !bucket.entries.is_empty());
        let Some(nearest) = occupied.map(|(number, _)| *number) else { return Vec::new() };
        let idle = |number: &u8| self.touched.get(number).is_none_or(|at| now.since(*at) >= REFRESH);
        (nearest..=u8::MAX).rev().filter(idle).collect()
    }

    /// The subnet for which a node counts that came from `ip`.
    fn group(&self, ip: IpAddr) -> Option<Group> {
        let exempt = self.addresses == AddressPolicy::Loopback && ip.to_canonical().is_loopback();
        (!exempt).then(|| Group::of(ip))
    }

    fn distance(&self, node: &NodeId) -> Distance {
        self.own.distance(&DhtKey::of(node))
    }

    fn bucket_of(&self, node: &NodeId) -> Option<&Bucket> {
        self.buckets.get(&self.distance(node).bucket()?)
    }

    fn bucket_of_mut(&mut self, node: &NodeId) -> Option<&mut Bucket> {
        let number = self.distance(node).bucket()?;
        self.buckets.get_mut(&number)
    }
}

fn admits(groups: &BTreeMap<Group, usize>, bucket: &Bucket, group: Option<Group>) -> bool {
    let Some(own) = group else { return true };
    let in_bucket = bucket.entries.iter().filter(|entry| entry.group == group).count();
    in_bucket < GROUP_IN_BUCKET && groups.get(&own).is_none_or(|count| *count < GROUP_IN_TABLE)
}

fn claim(groups: &mut BTreeMap<Group, usize>, group: Option<Group>) {
    if let Some(group) = group {
        *groups.entry(group).or_default() += 1;
    }
}

fn release(groups: &mut BTreeMap<Group, usize>, group: Option<Group>) {
    if let Some(group) = group
        && let Some(count) = groups.get_mut(&group)
    {
        *count -= 1;
        if *count == 0 {
            groups.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests;
