//! The peers that the manager knows, connected or not, in the manner of Bitcoin Core's `addrman`.
//!
//! | place | who | who can get in | who can be put out |
//! |---|---|---|---|
//! | tried | a dial that we chose reached it | its own success | by another's success, after a dial to it failed; by its own at another address |
//! | new | somebody told of it | within the buckets of the group that tells | once it is of no use ([`Entry::is_terrible`]) |
//! | loose | wanted or seen, and no place free | anybody | by the next one |
//!
//! Somebody else chooses whom a lookup wants: a dial for that proves an address and gives no place.

use core::{
    cmp::Reverse,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use peerage_core::{DialKey, KeyedState, NodeId, SeededRng, Timestamp, UnixMillis};
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    AddressPolicy, BookLine, KnownPeer,
    address::NetGroup,
    table::{Slot, Slots},
};

/// The most addresses kept for one peer: what a signed record carries.
pub(super) const MAX_ADDRS: usize = 4;
/// Peers without a place in a table; about 200 B each (our guess at the dials and visits of a minute).
const MAX_LOOSE: usize = 512;
/// The first delay after a failed dial (our guess: a restarting process is back within this).
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest delay between dials of an ordinary peer (our guess).
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The longest delay between dials of a reserved peer, which the operator asked for by name (our guess).
const BACKOFF_MAX_RESERVED: Duration = Duration::from_secs(5);
/// Somebody of whom nobody told for so long is of no use (Bitcoin Core, `ADDRMAN_HORIZON`).
const HORIZON: Duration = Duration::from_secs(30 * 24 * 3600);
/// Nor is one that was never reached in so many dials (Bitcoin Core, `ADDRMAN_RETRIES`).
const RETRIES: u32 = 3;
/// Nor one that was not reached in so many dials ... (Bitcoin Core, `ADDRMAN_MAX_FAILURES`).
const MAX_FAILURES: u32 = 10;
/// ... and for so long (Bitcoin Core, `ADDRMAN_MIN_FAIL`).
const MIN_FAIL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Nobody is of no use so soon after a dial: it may be the one that succeeds (Bitcoin Core: one minute).
const JUST_TRIED: Duration = Duration::from_secs(60);
/// Whom a dial of ours reached so recently keeps its place without another (Bitcoin Core, `ADDRMAN_REPLACEMENT`).
const REPLACEMENT: Duration = Duration::from_secs(4 * 3600);
/// Places in `tried` that two claim at a time (Bitcoin Core, `ADDRMAN_SET_TRIED_COLLISION_SIZE`).
const MAX_COLLISIONS: usize = 10;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Loose,
    New(Slot),
    Tried(Slot),
}

/// What is known of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Where it may be, best first: where it was reached, where the operator says, what others tell.
    pub(super) addrs: Vec<SocketAddr>,
    /// Where a dial of ours reached it last: the only proof of an address that counts. What others tell does not displace it.
    pub(super) proven: Option<SocketAddr>,
    /// Where it stands.
    pub(super) place: Place,
    /// The address that says so.
    stands_by: Option<SocketAddr>,
    /// Who told of it.
    pub(super) source: Option<IpAddr>,
    /// Who told of it again when whoever was good for its dials was so no more, instead of `source`; never kept on disk.
    pub(super) told_again: Option<Option<IpAddr>>,
    /// Configured by the operator.
    pub(super) reserved: bool,
    /// When a dial that we chose last reached it, or it was last connected so.
    pub(super) last_good: Option<UnixMillis>,
    /// Whether a connection that we chose lasted: what its neighbours do does not count against it any more.
    pub(super) stayed: bool,
    /// When it was last told or seen; 0 before this start.
    heard: UnixMillis,
    /// When it was last dialled.
    pub(super) dialled: UnixMillis,
    /// Dials in a row that led to no connection that lasted.
    pub(super) failures: u32,
    /// Dials in a row that reached nobody: each moves on to the next address.
    turn: usize,
    /// Not to be dialled before.
    pub(super) not_before: Timestamp,
    /// The key of its process when it was last here; never kept on disk. Only another that it proves replaces it.
    pub(super) dial_key: Option<DialKey>,
    /// The key by which it did not want to be dialled: it is not until it proves another.
    pub(super) refused_key: Option<DialKey>,
}

impl Entry {
    /// Who is good for dials to it.
    pub(super) fn teller(&self) -> Option<IpAddr> {
        self.told_again.unwrap_or(self.source)
    }

    /// The address for the next dial, of those that `permits` admits.
    pub(super) fn next_addr(&self, mut permits: impl FnMut(SocketAddr) -> bool) -> Option<SocketAddr> {
        let (later, first) = self.addrs.split_at(self.turn % self.addrs.len().max(1));
        first.iter().chain(later).copied().find(|addr| permits(*addr))
    }

    /// Not to be dialled at once again: exponential backoff, by the dials that failed, with jitter of one half either way.
    pub(super) fn rest(&mut self, now: Timestamp, dice: &mut SeededRng) {
        let max = if self.reserved { BACKOFF_MAX_RESERVED } else { BACKOFF_MAX };
        let delay = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(max);
        let permille = 500 + dice.next_u32() % 1000;
        self.not_before = now + delay * permille / 1000;
    }

    /// Notes a dial that reached it and led to nothing that lasted.
    pub(super) fn failed(&mut self, now: Timestamp, dice: &mut SeededRng) {
        self.rest(now, dice);
        self.failures = self.failures.saturating_add(1);
    }

    /// Notes a dial that reached nobody.
    pub(super) fn dial_failed(&mut self, now: Timestamp, dice: &mut SeededRng) {
        self.failed(now, dice);
        self.turn = self.turn.wrapping_add(1);
    }

    /// A connection that we chose has lasted until now.
    pub(super) const fn vouch(&mut self, wall: UnixMillis) {
        self.stayed = true;
        self.last_good = Some(wall);
        self.failures = 0;
    }

    /// Whether it stands among those whom a dial of ours reached.
    pub(super) const fn is_tried(&self) -> bool {
        matches!(self.place, Place::Tried(_))
    }

    /// Forgets an address at which somebody else answered. What was proven once stays: whoever sits on the way can answer
    /// anything for a while.
    pub(super) fn unlearn(&mut self, addr: SocketAddr) {
        self.addrs.retain(|known| *known != addr || self.proven == Some(addr));
    }

    /// Whether its place may be given to somebody else (Bitcoin Core, `IsTerrible`).
    fn is_terrible(&self, wall: UnixMillis) -> bool {
        if self.reserved || self.dialled.0 > 0 && wall.since(self.dialled) < JUST_TRIED {
            return false;
        }
        let never = self.last_good.is_none() && self.failures >= RETRIES;
        let no_more = self.last_good.is_some_and(|good| wall.since(good) > MIN_FAIL) && self.failures >= MAX_FAILURES;
        never || no_more || self.heard.0 > 0 && wall.since(self.heard) > HORIZON
    }

    /// Takes up what others tell, or what a dial of ours proved: the proven address comes first, then those of the operator,
    /// then the latest that were told. What does not fit into [`MAX_ADDRS`] is forgotten from the end.
    fn learn(&mut self, configured: Option<&Vec<SocketAddr>>, told: impl IntoIterator<Item = SocketAddr>) {
        let told: Vec<_> = told.into_iter().take(MAX_ADDRS).collect();
        let mut addrs = Vec::new();
        for addr in self.proven.iter().chain(configured.into_iter().flatten()).chain(&told).chain(&self.addrs) {
            if addrs.len() < MAX_ADDRS && !addrs.contains(addr) {
                addrs.push(*addr);
            }
        }
        self.addrs = addrs;
    }
}

/// Two that claim one place in `tried`.
#[derive(Clone, Copy, Debug)]
struct Collision {
    holder: NodeId,
    challenger: NodeId,
    /// That of the challenger: one challenge for each group at a time.
    group: NetGroup,
}

/// All known peers; bounded.
#[derive(Debug)]
pub(super) struct Book {
    slots: Slots,
    policy: AddressPolicy,
    entries: BTreeMap<NodeId, Entry>,
    /// Where the operator says that somebody is, whether there is an entry or not.
    configured: BTreeMap<NodeId, Vec<SocketAddr>>,
    new: BTreeMap<Slot, NodeId>,
    tried: BTreeMap<Slot, NodeId>,
    collisions: VecDeque<Collision>,
    loose: usize,
}

impl Book {
    pub(super) const fn new(key: KeyedState, policy: AddressPolicy) -> Self {
        Self {
            slots: Slots(key),
            policy,
            entries: BTreeMap::new(),
            configured: BTreeMap::new(),
            new: BTreeMap::new(),
            tried: BTreeMap::new(),
            collisions: VecDeque::new(),
            loose: 0,
        }
    }

    pub(super) fn get(&self, peer: &NodeId) -> Option<&Entry> {
        self.entries.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &NodeId) -> Option<&mut Entry> {
        self.entries.get_mut(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.entries.iter()
    }

    /// Entries in `new`, and in `tried`.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.new.len(), self.tried.len())
    }

    /// Who stands in `new`, in a stable order.
    pub(super) fn iter_new(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.new.values().filter_map(|peer| self.entries.get_key_value(peer))
    }

    /// Where the operator says that a peer is, from now on; what was said before counts as told by somebody.
    pub(super) fn configure(&mut self, peer: NodeId, addrs: Vec<SocketAddr>) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.learn(Some(&addrs), []);
        }
        if addrs.is_empty() {
            self.configured.remove(&peer);
        } else {
            self.configured.insert(peer, addrs);
        }
    }

    /// Whether the operator says that a peer is at this address.
    pub(super) fn is_configured(&self, peer: &NodeId, addr: SocketAddr) -> bool {
        self.configured.get(peer).is_some_and(|addrs| addrs.contains(&addr))
    }

    /// Whether the operator says of anybody that it is at this host.
    pub(super) fn is_home(&self, host: IpAddr) -> bool {
        self.configured.values().flatten().any(|addr| addr.ip().to_canonical() == host)
    }

    /// Whether a peer is known to be at this host: the operator says so, or a dial that we chose reached it there.
    pub(super) fn is_at_home(&self, peer: &NodeId, host: IpAddr) -> bool {
        let configured = self.configured.get(peer).into_iter().flatten();
        let reached =
            self.entries.get(peer).filter(|entry| entry.is_tried()).and_then(|entry| entry.stands_by.as_ref());
        configured.chain(reached).any(|addr| addr.ip().to_canonical() == host)
    }

    /// The entry of a peer of which somebody told: it gets a place in `new` if one is free within reach of `source`, and is
    /// loose if not.
    pub(super) fn hear(
        &mut self,
        wall: UnixMillis,
        peer: NodeId,
        addrs: impl IntoIterator<Item = SocketAddr>,
        source: Option<IpAddr>,
    ) -> &mut Entry {
        self.note(wall, peer, addrs, source);
        if self.entries.get(&peer).is_some_and(|entry| entry.place == Place::Loose) {
            self.place_in_new(wall, peer, source);
        }
        self.entries.entry(peer).or_default()
    }

    /// The entry of a peer that somebody wants: that alone gives it no place.
    pub(super) fn note(
        &mut self,
        wall: UnixMillis,
        peer: NodeId,
        addrs: impl IntoIterator<Item = SocketAddr>,
        source: Option<IpAddr>,
    ) -> &mut Entry {
        if !self.entries.contains_key(&peer) {
            self.make_loose_room();
            self.loose += 1;
        }
        let entry = self.entries.entry(peer).or_insert_with(|| Entry { source, ..Entry::default() });
        entry.learn(self.configured.get(&peer), addrs);
        entry.heard = wall;
        entry
    }

    fn place_in_new(&mut self, wall: UnixMillis, peer: NodeId, source: Option<IpAddr>) {
        let Some(addr) = self.entries.get(&peer).and_then(|entry| entry.addrs.first().copied()) else { return };
        self.place_in_new_by(wall, peer, addr, source);
    }

    fn place_in_new_by(&mut self, wall: UnixMillis, peer: NodeId, addr: SocketAddr, source: Option<IpAddr>) {
        let group = NetGroup::of(addr, self.policy);
        let told = source.map_or(NetGroup::Unknown, |ip| NetGroup::of(SocketAddr::new(ip, 0), self.policy));
        let slot = self.slots.new_slot(&peer, addr, group, told);
        if let Some(holder) = self.new.get(&slot).copied() {
            if self.entries.get(&holder).is_some_and(|entry| !entry.is_terrible(wall)) {
                return;
            }
            self.remove(&holder);
        }
        self.new.insert(slot, peer);
        self.stand(&peer, Place::New(slot));
        if let Some(entry) = self.entries.get_mut(&peer) {
            (entry.source, entry.stands_by) = (source, Some(addr));
        }
    }

    /// A dial reached a peer at `addr`: it is there, and is sought there first.
    pub(super) fn met(&mut self, peer: &NodeId, addr: SocketAddr) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        (entry.proven, entry.turn) = (Some(addr), 0);
        entry.learn(self.configured.get(peer), []);
    }

    /// A dial that we chose reached a peer at `addr`. It moves to `tried`, to the place that is that address's, or waits until
    /// whoever stands there was dialled.
    pub(super) fn reached(&mut self, wall: UnixMillis, peer: NodeId, addr: SocketAddr) {
        self.met(&peer, addr);
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.last_good = Some(wall);
        let (place, source) = (entry.place, entry.source);
        self.collisions.retain(|collision| collision.holder != peer);
        let group = NetGroup::of(addr, self.policy);
        let slot = self.slots.tried_slot(&peer, addr, group);
        if place == Place::Tried(slot) {
            return;
        }
        if matches!(place, Place::Tried(_)) {
            // It moved: whoever has hosts in many groups for an hour gets no places there for ever.
            self.make_loose_room();
            self.stand(&peer, Place::Loose);
            self.place_in_new(wall, peer, source);
        }
        self.collisions.retain(|collision| collision.challenger != peer);
        match self.tried.get(&slot) {
            None => self.take_tried(slot, peer, addr),
            Some(holder) => {
                let good = self.entries.get(holder).and_then(|entry| entry.last_good);
                let stays = good.is_some_and(|good| wall.since(good) < REPLACEMENT);
                let waits = self.collisions.iter().any(|c| c.holder == *holder || c.group == group);
                if !stays && !waits && self.collisions.len() < MAX_COLLISIONS {
                    self.collisions.push_back(Collision { holder: *holder, challenger: peer, group });
                }
            }
        }
    }

    fn take_tried(&mut self, slot: Slot, peer: NodeId, addr: SocketAddr) {
        self.tried.insert(slot, peer);
        self.stand(&peer, Place::Tried(slot));
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.stands_by = Some(addr);
        }
    }

    /// Whoever is connected is there: who claims its place has lost.
    pub(super) fn settle(&mut self, connected: impl Fn(&NodeId) -> bool) {
        self.collisions.retain(|collision| !connected(&collision.holder));
    }

    /// Whose place in `tried` is claimed, and should be dialled to see whether it is still there.
    pub(super) fn challenged(&self) -> Option<NodeId> {
        self.collisions.front().map(|collision| collision.holder)
    }

    /// A dial to a peer failed: if somebody waits for its place in `tried`, the two change places.
    pub(super) fn lost(&mut self, wall: UnixMillis, peer: &NodeId) {
        let Some(at) = self.collisions.iter().position(|collision| collision.holder == *peer) else { return };
        let Some(Collision { holder, challenger, .. }) = self.collisions.remove(at) else { return };
        let Some(Place::Tried(slot)) = self.entries.get(&holder).map(|entry| entry.place) else { return };
        self.make_loose_room();
        let Some(addr) = self.entries.get(&challenger).and_then(|entry| entry.proven) else { return };
        // First the one who comes: where the other goes, there may be somebody to put out.
        self.take_tried(slot, challenger, addr);
        self.stand(&holder, Place::Loose);
        let source = self.entries.get(&holder).and_then(|entry| entry.source);
        self.place_in_new(wall, holder, source);
    }

    /// Gives an entry another place, and its old one up.
    fn stand(&mut self, peer: &NodeId, place: Place) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        let old = core::mem::replace(&mut entry.place, place);
        self.loose += usize::from(place == Place::Loose);
        match old {
            Place::Loose => self.loose -= 1,
            Place::New(slot) => drop(self.new.remove(&slot)),
            // Whoever took the place stays there.
            Place::Tried(slot) if self.tried.get(&slot) == Some(peer) => drop(self.tried.remove(&slot)),
            Place::Tried(_) => {}
        }
    }

    fn remove(&mut self, peer: &NodeId) {
        self.stand(peer, Place::Loose);
        self.entries.remove(peer);
        self.loose -= 1;
    }

    /// Forgets somebody without a place for a newcomer: first of those that no dial of ours ever reached whoever failed most,
    /// else whoever was heard of longest ago; never a reserved peer.
    fn make_loose_room(&mut self) {
        if self.loose < MAX_LOOSE {
            return;
        }
        let expendable = self.entries.iter().filter(|(_, entry)| entry.place == Place::Loose && !entry.reserved);
        let worth = |entry: &Entry| (entry.last_good, Reverse(entry.failures), entry.heard);
        if let Some(least) = expendable.min_by_key(|(_, entry)| worth(entry)).map(|(id, _)| *id) {
            self.remove(&least);
        }
    }

    /// Takes up a line that was written before a restart, in the place where it stood. What finds its place taken is new
    /// again, or loose.
    pub(super) fn restore(&mut self, wall: UnixMillis, line: &BookLine) {
        let BookLine { known, tried, last_good, stayed, heard, failures, source, stands_by, .. } = line;
        let (peer, Some(first)) = (known.peer, known.addrs.first().copied()) else { return };
        if self.entries.contains_key(&peer) {
            return;
        }
        let entry = self.note(*heard, peer, known.addrs.iter().copied(), *source);
        (entry.last_good, entry.stayed, entry.failures) = (*last_good, *stayed, *failures);
        if *tried || last_good.is_some() {
            entry.proven = Some(first);
        }
        let addr = stands_by.unwrap_or(first);
        if *tried {
            let slot = self.slots.tried_slot(&peer, addr, NetGroup::of(addr, self.policy));
            if !self.tried.contains_key(&slot) {
                return self.take_tried(slot, peer, addr);
            }
        }
        self.place_in_new_by(wall, peer, addr, *source);
    }

    /// The book for the disk, `most` lines at most: the `first` before all others, then those that have a place, of these those
    /// that were reached, and equal ones by `rank`.
    pub(super) fn lines<K: Ord>(
        &self,
        most: usize,
        first: &BTreeSet<NodeId>,
        rank: impl Fn(&NodeId) -> K,
    ) -> Vec<BookLine> {
        let worth_it = |(peer, e): &(&NodeId, &Entry)| {
            (e.place != Place::Loose || e.last_good.is_some() || first.contains(*peer)) && !e.addrs.is_empty()
        };
        let mut lines: Vec<_> = self.entries.iter().filter(worth_it).collect();
        lines.sort_by_cached_key(|(peer, entry)| {
            let loose = entry.place == Place::Loose;
            (!first.contains(*peer), loose, !entry.is_tried(), Reverse(entry.last_good), rank(peer))
        });
        let line = |(peer, entry): (&NodeId, &Entry)| BookLine {
            known: KnownPeer { peer: *peer, addrs: entry.addrs.clone() },
            tried: entry.is_tried(),
            last_good: entry.last_good,
            stayed: entry.stayed,
            heard: entry.heard,
            failures: entry.failures,
            source: entry.source,
            stands_by: entry.stands_by,
            anchor: first.contains(peer),
        };
        lines.into_iter().take(most).map(line).collect()
    }

    /// What holds between the parts, for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let count = |is: fn(&Place) -> bool| self.entries.values().filter(|entry| is(&entry.place)).count();
        assert_eq!(count(|place| matches!(place, Place::New(_))), self.new.len());
        assert_eq!(count(|place| matches!(place, Place::Tried(_))), self.tried.len());
        assert_eq!(count(|place| *place == Place::Loose), self.loose);
        for (slot, peer) in &self.new {
            assert_eq!(self.entries[peer].place, Place::New(*slot));
        }
        for (slot, peer) in &self.tried {
            assert_eq!(self.entries[peer].place, Place::Tried(*slot));
        }
        let reserved = self.entries.values().filter(|entry| entry.reserved).count();
        assert!(self.loose <= MAX_LOOSE + reserved && self.collisions.len() <= MAX_COLLISIONS);
        assert!(self.entries.values().all(|entry| entry.addrs.len() <= MAX_ADDRS));
    }
}

#[cfg(test)]
#[path = "tests/book.rs"]
mod tests;
