//! Whom the manager chooses: to keep, to try out, and in which order.
//!
//! To fill a place it draws a class, then a group of addresses, then a peer of it, so that neither many identities nor one that
//! was made for it come first:
//!
//! | class | who |
//! |---|---|
//! | 0 | anchors |
//! | 1 | those with a place in `tried` |
//! | 2 | hearsay |
//! | 3, 4 | as 1 and 2, after [`DOUBTFUL`] dials in a row that led to nothing |

use core::{hash::BuildHasher, net::SocketAddr, time::Duration};
use peerage_core::{NodeId, Now, Timestamp, UnixMillis};
use rand_core::Rng;
use std::collections::BTreeMap;

use super::{
    Peer, PeerEvent, PeerManager, Timer, Unmet,
    address::NetGroup,
    book::{Entry, Place},
    dialling::Purpose,
};

/// How often targets are looked at (our guess: far below the first backoff costs nothing).
const MAINTAIN_EVERY: Duration = Duration::from_millis(250);
/// A peer that we know from hearsay is tried out so often, while there is nothing else to dial (Bitcoin Core,
/// `FEELER_INTERVAL`).
const FEELER_INTERVAL: Duration = Duration::from_secs(120);
/// After so many failed dials in a row those whom nobody tried yet come before one that was good (our guess).
const DOUBTFUL: u32 = 3;

impl PeerManager {
    /// Looks at all that depends on time. First whom the operator named, then whom we choose, then whom others want.
    pub(super) fn maintain(&mut self, now: Now) {
        self.timers.set(Timer::Maintain, now.mono + MAINTAIN_EVERY);
        self.drop_lost_dials(now);
        self.vouch(now);
        let reserved: Vec<_> = self.reserved.keys().filter(|peer| !self.peers.contains_key(*peer)).copied().collect();
        for peer in reserved {
            let result = self.dial(now, peer, Purpose::Keep);
            self.complain(peer, result.err());
        }
        self.keep_more(now);
        self.freed.clear();
        self.serve_waiting(now);
        self.trim_inbound(now);
        self.close_surplus(now);
    }

    /// Tells once that a reserved peer cannot be dialled, and why, if that does not pass by itself.
    fn complain(&mut self, peer: NodeId, why: Option<Unmet>) {
        let why = why.filter(|why| matches!(why, Unmet::NoAddress | Unmet::Denied));
        let Some(told) = self.reserved.get_mut(&peer) else { return };
        if let Some(why) = why
            && *told != Some(why)
        {
            self.actions.push_back(peerage_core::Action::Emit(PeerEvent::ReservedUndialled { peer, why }));
        }
        *told = why;
    }

    /// How many connections to keep there are too few, those counted that are being opened for that.
    pub(super) fn missing(&self) -> usize {
        let begun = self.dials.values().filter(|dial| dial.purpose == Purpose::Keep).count();
        self.config.target_outbound.saturating_sub(self.kept() + begun)
    }

    /// Draws as many peers as are missing, and dials them or keeps the passing connection that there is.
    fn keep_more(&mut self, now: Now) {
        let missing = self.missing();
        if missing == 0 {
            return;
        }
        self.draws = self.draws.wrapping_add(1);
        for (peer, addr) in self.draw(now, missing) {
            if let Some(passing) = self.peers.get_mut(&peer) {
                passing.transient = false;
                self.book.reached(now.wall, peer, addr);
                self.remember_soon(now);
            } else {
                // All dials may be taken: then at the next look.
                let _busy = self.dial(now, peer, Purpose::Keep);
            }
        }
    }

    /// Up to `missing` peers to keep, no more of a group than may stay.
    fn draw(&self, now: Now, missing: usize) -> Vec<(NodeId, SocketAddr)> {
        let mut drawable = Vec::new();
        for (peer, entry) in self.book.iter() {
            let Some(addr) = self.drawable(now, peer, entry) else { continue };
            let group = NetGroup::of(addr, self.config.addresses);
            let by_chance = self.order.hash_one((self.draws, peer));
            drawable.push((self.class(peer, entry), group, entry.failures, by_chance, *peer, addr));
        }
        drawable.sort_unstable();
        // Of each group one, and then a second: the groups in an order that nobody outside can foresee and that is another one
        // each time.
        let mut before = (None, 0);
        let mut turns = Vec::with_capacity(drawable.len());
        for (class, group, .., peer, addr) in drawable {
            before =
                if before.0 == Some((class, group)) { (before.0, before.1 + 1) } else { (Some((class, group)), 0) };
            turns.push((class, before.1, self.order.hash_one((self.draws, group)), group, peer, addr));
        }
        turns.sort_unstable_by_key(|(class, turn, by_chance, group, ..)| (*class, *turn, *by_chance, *group));
        let mut groups = self.outbound_groups();
        let mut chosen = Vec::new();
        for (.., group, peer, addr) in turns {
            let members = groups.entry(group).or_default();
            if chosen.len() < missing && *members < self.config.outbound_per_group {
                *members += 1;
                chosen.push((peer, addr));
            }
        }
        chosen
    }

    fn class(&self, peer: &NodeId, entry: &Entry) -> u8 {
        // Nobody who made the anchors fail before a restart is asked whether they are dialled after it.
        let first_attempt = entry.dialled == UnixMillis(0);
        match (self.anchors.contains(peer), entry.is_tried(), entry.failures < DOUBTFUL) {
            (true, _, good) if good || first_attempt => 0,
            (_, true, true) => 1,
            (_, false, true) => 2,
            (_, true, false) => 3,
            (_, false, false) => 4,
        }
    }

    /// Where a peer is that may be chosen to be kept: it is known well enough, and there is a way to it, or a connection that
    /// somebody wanted for a moment.
    fn drawable(&self, now: Now, peer: &NodeId, entry: &Entry) -> Option<SocketAddr> {
        if entry.reserved || !self.is_placed(peer, entry) || self.is_dialled(peer) {
            return None;
        }
        match self.peers.get(peer) {
            Some(there) => there.transient.then_some(there.info.remote),
            None => self.way_to(now, peer, entry).ok(),
        }
    }

    /// Whether a peer stands in the book, and is not merely on its margin.
    pub(super) fn is_placed(&self, peer: &NodeId, entry: &Entry) -> bool {
        entry.place != Place::Loose || entry.last_good.is_some() || self.anchors.contains(peer)
    }

    /// How many outbound connections there are, to stay or begun for that, in each group of addresses; reserved ones aside.
    pub(super) fn outbound_groups(&self) -> BTreeMap<NetGroup, usize> {
        let stays = |peer: &&Peer| peer.info.outbound && !peer.transient && !self.is_reserved(&peer.info.peer);
        let standing = self.peers.values().filter(stays).map(|peer| peer.info.remote);
        let begun =
            self.dials.iter().filter(|(_, dial)| dial.purpose == Purpose::Keep && !self.is_reserved(&dial.peer));
        let mut groups = BTreeMap::new();
        for addr in standing.chain(begun.map(|(addr, _)| *addr)) {
            *groups.entry(NetGroup::of(addr, self.config.addresses)).or_insert(0) += 1;
        }
        groups
    }

    /// Tries one peer out, only once there are enough connections: until then each dial is such a trial. In turns one whose
    /// place in `tried` is claimed by another, and one that we know from hearsay, so that neither crowds the other out.
    pub(super) fn feel(&mut self, now: Now) {
        let spread = FEELER_INTERVAL / 2;
        let millis = u64::from(self.dice.next_u32()) % u64::try_from(2 * spread.as_millis()).unwrap_or(1);
        self.timers.set(Timer::Feel, now.mono + spread + Duration::from_millis(millis));
        if self.missing() > 0 {
            return;
        }
        self.trials = self.trials.wrapping_add(1);
        self.book.settle(|peer| self.peers.contains_key(peer));
        let (challenged, hearsay) = (self.book.challenged(), self.hearsay_to_try(now));
        let chosen = if self.trials % 2 == 1 { challenged.or(hearsay) } else { hearsay.or(challenged) };
        let Some(peer) = chosen else { return };
        // Who rests or finds no dial free is tried another time.
        if let Err(Unmet::NoAddress | Unmet::Banned | Unmet::Denied) = self.dial(now, peer, Purpose::Feel) {
            self.book.lost(now.wall, &peer);
        }
    }

    /// One of those with a place in `new`: a group, then a peer of it.
    fn hearsay_to_try(&self, now: Now) -> Option<NodeId> {
        let idle = |peer: &NodeId, entry: &Entry| {
            let addr = self.drawable(now, peer, entry).filter(|_| !self.peers.contains_key(peer))?;
            let group = NetGroup::of(addr, self.config.addresses);
            let by_chance = (self.order.hash_one((now.mono.0, group)), self.order.hash_one((now.mono.0, peer)));
            Some((entry.last_good.is_some(), by_chance, *peer))
        };
        self.book.iter_new().filter_map(|(peer, entry)| idle(peer, entry)).min().map(|(.., peer)| peer)
    }

    /// When the first trial is due.
    pub(super) fn first_feeler() -> Timestamp {
        Timestamp::ZERO + FEELER_INTERVAL
    }
}
