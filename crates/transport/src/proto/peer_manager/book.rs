//! The peers that the manager knows, connected or not.

use core::{cmp::Reverse, net::SocketAddr, time::Duration};
use peerage_core::{DialKey, NodeId, SeededRng, Timestamp, UnixMillis};
use rand_core::Rng;
use std::collections::BTreeMap;

/// The most addresses kept for one peer: what a signed record carries.
pub(super) const MAX_ADDRS: usize = 4;
/// The most peers remembered; about 200 B each (our guess at a small network's needs).
const MAX_ENTRIES: usize = 4096;
/// The first delay after a failed dial (our guess: a restarting process is back within this).
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest delay between dials of an ordinary peer (our guess).
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The longest delay between dials of a reserved peer, which the operator asked for by name (our guess).
const BACKOFF_MAX_RESERVED: Duration = Duration::from_secs(5);

/// What is known of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Where it may be, best first.
    pub(super) addrs: Vec<SocketAddr>,
    /// Configured by the operator.
    pub(super) reserved: bool,
    /// When a dial of ours last reached it: the only proof of an address that counts.
    pub(super) last_good: Option<UnixMillis>,
    /// When it last came to us by itself, claiming its addresses.
    pub(super) last_inbound: Option<UnixMillis>,
    /// Dials that failed in a row.
    pub(super) failures: u32,
    /// Not to be dialled before.
    pub(super) not_before: Timestamp,
    /// The key of its process when it was last here; never kept on disk. Only another that it proves replaces it.
    pub(super) dial_key: Option<DialKey>,
}

impl Entry {
    /// The address for the next dial: each failure moves on to the next one.
    pub(super) fn next_addr(&self) -> Option<SocketAddr> {
        let turn = usize::try_from(self.failures).unwrap_or(usize::MAX) % self.addrs.len().max(1);
        self.addrs.get(turn).copied()
    }

    /// Notes a failed dial: exponential backoff with jitter of one half either way.
    pub(super) fn failed(&mut self, now: Timestamp, dice: &mut SeededRng) {
        let max = if self.reserved { BACKOFF_MAX_RESERVED } else { BACKOFF_MAX };
        let delay = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(max);
        let permille = 500 + dice.next_u32() % 1000;
        self.not_before = now + delay * permille / 1000;
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether it is worth coming back to.
    pub(super) const fn is_remembered(&self) -> bool {
        self.last_good.is_some() || self.last_inbound.is_some()
    }

    /// Puts addresses first in line, dropping the oldest beyond [`MAX_ADDRS`].
    pub(super) fn learn(&mut self, addrs: impl IntoIterator<Item = SocketAddr>) {
        let fresh: Vec<_> = addrs.into_iter().take(MAX_ADDRS).collect();
        self.addrs.retain(|addr| !fresh.contains(addr));
        self.addrs.splice(0..0, fresh);
        self.addrs.truncate(MAX_ADDRS);
    }
}

/// All known peers; bounded.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<NodeId, Entry>);

impl Book {
    pub(super) fn get(&self, peer: &NodeId) -> Option<&Entry> {
        self.0.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &NodeId) -> Option<&mut Entry> {
        self.0.get_mut(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.0.iter()
    }

    /// The entry of a peer. A full book forgets somebody for a newcomer: first of those that no dial of ours ever reached
    /// whoever failed most, else whoever was reached longest ago; never a reserved peer. `None` if all are reserved.
    pub(super) fn entry(&mut self, peer: NodeId) -> Option<&mut Entry> {
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&peer) {
            let expendable = self.0.iter().filter(|(_, entry)| !entry.reserved);
            let worth = |entry: &Entry| (entry.last_good, Reverse(entry.failures), entry.last_inbound);
            let least = expendable.min_by_key(|(_, entry)| worth(entry)).map(|(id, _)| *id)?;
            self.0.remove(&least);
        }
        Some(self.0.entry(peer).or_default())
    }
}
