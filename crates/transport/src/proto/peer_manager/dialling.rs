//! Whom to dial, and when.

use core::{hash::BuildHasher, net::SocketAddr, time::Duration};
use peerage_core::{Action, CloseReason, Closed, LinkInfo, NodeId, Now, Outlet, Timestamp, Want};
use rand_core::Rng;
use std::collections::BTreeMap;

use super::{
    PeerEvent, PeerManager, Timer, Unmet,
    address::NetGroup,
    book::{Entry, Place},
};

/// How often targets are looked at (our guess: far below the first backoff costs nothing).
const MAINTAIN_EVERY: Duration = Duration::from_millis(250);
/// Dials under way at most (our guess; Bitcoin Core opens one at a time, geth 16).
const MAX_DIALS: usize = 16;
/// The default of `acquire_timeout`: a wish for somebody at once that finds all dials taken waits so long (our guess: half of what a lookup waits).
pub(super) const ACQUIRE: Duration = Duration::from_secs(2);
/// Wishes that wait so at a time (our guess: four times the dials).
const MAX_WAITING: usize = 64;
/// A peer that we know from hearsay is tried out so often, while there is nothing else to dial (Bitcoin Core,
/// `FEELER_INTERVAL`).
const FEELER_INTERVAL: Duration = Duration::from_secs(120);
/// After so many failed dials in a row those whom nobody tried yet come before one that was good (our guess).
const DOUBTFUL: u32 = 3;

/// What a dial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To stay.
    Keep,
    /// Somebody wants the peer just now.
    Now,
    /// Only to see whether it is there.
    Feel,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) peer: NodeId,
    pub(super) purpose: Purpose,
}

impl PeerManager {
    /// Ends the dial that led to this connection; says what it was for.
    pub(super) fn dial_over(&mut self, info: &LinkInfo) -> Option<Purpose> {
        if !info.outbound {
            return None;
        }
        self.dials.remove(&info.remote).map(|dial| dial.purpose)
    }

    pub(super) fn dial_failed(&mut self, now: Now, addr: SocketAddr, closed: Closed) {
        let Some(Dial { peer, .. }) = self.dials.remove(&addr) else { return };
        let Some(entry) = self.book.get_mut(&peer) else { return };
        entry.failed(now.mono, &mut self.dice);
        if closed.reason == CloseReason::WrongSuite {
            entry.dial_key = None; // it does without the handshake that needs one
        }
        if closed.reason == CloseReason::WrongPeer && !entry.reserved {
            entry.unlearn(addr);
        }
        self.book.lost(now.wall, &peer);
    }

    pub(super) fn want(&mut self, now: Now, want: Want) {
        let policy = self.config.addresses;
        match want {
            Want::Candidate { peer, addrs, source } if peer != self.config.local => {
                let addrs: Vec<_> = addrs.into_iter().filter(|addr| policy.allows(*addr)).collect();
                if !addrs.is_empty() {
                    let told_by = source.and_then(|source| self.ip_of(&source));
                    self.book.hear(now.wall, peer, addrs, told_by);
                }
            }
            Want::Now { peer, addrs } if peer != self.config.local => {
                if let Some(there) = self.peers.get_mut(&peer) {
                    there.wanted = now.mono;
                    return;
                }
                let addrs = addrs.into_iter().filter(|addr| policy.allows(*addr));
                self.book.hear(now.wall, peer, addrs, None);
                self.dial_now(now, peer);
            }
            Want::Keep { peer } => {
                if let Some(there) = self.peers.get_mut(&peer) {
                    there.useful = Some(now.mono);
                }
            }
            Want::Candidate { .. } | Want::Now { .. } => {} // us
        }
    }

    /// Dials whom somebody wants at once, or says why not.
    fn dial_now(&mut self, now: Now, peer: NodeId) {
        match self.dial(now, peer, Purpose::Now) {
            Ok(()) => {}
            Err(Unmet::Busy) if self.waiting.iter().any(|(_, waits)| *waits == peer) => {}
            Err(Unmet::Busy) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back((now.mono + self.config.acquire_timeout, peer));
            }
            Err(why) => self.actions.push_back(Action::Emit(PeerEvent::Unmet { peer, why })),
        }
    }

    /// Looks again at wishes that found all dials taken.
    fn serve_waiting(&mut self, now: Now) {
        for (deadline, peer) in core::mem::take(&mut self.waiting) {
            if self.peers.contains_key(&peer) {
                continue;
            }
            match self.dial(now, peer, Purpose::Now) {
                Ok(()) => {}
                Err(Unmet::Busy) if now.mono < deadline => self.waiting.push_back((deadline, peer)),
                Err(why) => self.actions.push_back(Action::Emit(PeerEvent::Unmet { peer, why })),
            }
        }
    }

    fn dial(&mut self, now: Now, peer: NodeId, purpose: Purpose) -> Result<(), Unmet> {
        if let Some(under_way) = self.dials.values_mut().find(|dial| dial.peer == peer) {
            if purpose == Purpose::Now {
                under_way.purpose = purpose;
            }
            return Ok(());
        }
        let Some((entry, addr)) = self.book.get(&peer).and_then(|entry| Some((entry, entry.next_addr()?))) else {
            return Err(Unmet::NoAddress);
        };
        let dial_key = entry.dial_key;
        let resting = entry.not_before > now.mono || self.dials.contains_key(&addr);
        if self.is_denied(&peer, Some(addr)) {
            return Err(Unmet::Denied);
        }
        if !self.is_privileged(&peer) && self.conduct.banned(now.wall, &super::Subject::Peer(peer)).is_some() {
            return Err(Unmet::Banned);
        }
        if resting {
            return Err(Unmet::Resting);
        }
        if self.dials.len() >= MAX_DIALS {
            return Err(Unmet::Busy);
        }
        if let Some(entry) = self.book.get_mut(&peer) {
            entry.dial(now.wall);
        }
        self.dials.insert(addr, Dial { peer, purpose });
        self.actions.push_back(Action::Link(Outlet::Dial { addr, expected: Some(peer), dial_key }));
        Ok(())
    }

    pub(super) fn maintain(&mut self, now: Now) {
        self.timers.set(Timer::Maintain, now.mono + MAINTAIN_EVERY);
        self.serve_waiting(now);
        let reserved: Vec<_> = self.reserved.iter().filter(|peer| !self.peers.contains_key(*peer)).copied().collect();
        for peer in reserved {
            let _rests = self.dial(now, peer, Purpose::Keep);
        }
        let under_way = self.dials.values().filter(|dial| dial.purpose != Purpose::Feel).count();
        let missing = self.config.target_outbound.saturating_sub(self.outbound() + under_way);
        if missing > 0 {
            self.dial_others(now, missing);
        }
        self.trim_inbound(now);
        self.close_surplus(now);
    }

    /// Dials up to `missing` peers to keep, each of another group of addresses.
    fn dial_others(&mut self, now: Now, missing: usize) {
        self.draws = self.draws.wrapping_add(1);
        let mut idle: Vec<_> = self.book.iter().filter(|(peer, entry)| self.is_idle(now, peer, entry)).collect();
        // Anchors first, then those that a dial of ours reached before, then hearsay; equal ones in an order that nobody
        // outside can foresee and that is another one each time, so that no identity can be made to come first.
        idle.sort_by_cached_key(|(peer, entry)| {
            let class = match (self.anchors.contains(*peer), entry.is_tried(), entry.failures < DOUBTFUL) {
                (true, _, true) => 0,
                (_, true, true) => 1,
                (_, false, true) => 2,
                (_, true, false) => 3,
                (_, false, false) => 4,
            };
            (class, entry.failures, self.order.hash_one((self.draws, peer)))
        });
        let mut groups = self.outbound_groups();
        let mut chosen = Vec::new();
        for (peer, entry) in idle {
            if chosen.len() >= missing {
                break;
            }
            let Some(addr) = entry.next_addr() else { continue };
            let members = groups.entry(NetGroup::of(addr, self.config.addresses)).or_default();
            if *members < self.config.outbound_per_group {
                *members += 1;
                chosen.push(*peer);
            }
        }
        for peer in chosen {
            let _rests = self.dial(now, peer, Purpose::Keep);
        }
    }

    /// Whether a peer may be dialled to be kept.
    fn is_idle(&self, now: Now, peer: &NodeId, entry: &Entry) -> bool {
        let known = entry.place != Place::Loose || entry.is_tried() || self.anchors.contains(peer);
        known
            && !entry.reserved
            && entry.not_before <= now.mono
            && !entry.addrs.is_empty()
            && !self.peers.contains_key(peer)
            && !self.is_denied(peer, entry.next_addr())
            && self.conduct.banned(now.wall, &super::Subject::Peer(*peer)).is_none()
    }

    /// How many outbound connections there are, to stay or begun for that, in each group of addresses; reserved ones aside.
    pub(super) fn outbound_groups(&self) -> BTreeMap<NetGroup, usize> {
        let stays = |peer: &&super::Peer| peer.info.outbound && !peer.transient && !self.is_reserved(&peer.info.peer);
        let standing = self.peers.values().filter(stays).map(|peer| peer.info.remote);
        let begun =
            self.dials.iter().filter(|(_, dial)| dial.purpose == Purpose::Keep && !self.is_reserved(&dial.peer));
        let mut groups = BTreeMap::new();
        for addr in standing.chain(begun.map(|(addr, _)| *addr)) {
            *groups.entry(NetGroup::of(addr, self.config.addresses)).or_insert(0) += 1;
        }
        groups
    }

    /// Tries one peer out: one whose place in `tried` is claimed by another, else one that we know from hearsay. Only once
    /// there are enough connections: until then each dial is such a trial.
    pub(super) fn feel(&mut self, now: Now) {
        let spread = FEELER_INTERVAL / 2;
        let millis = u64::from(self.dice.next_u32()) % u64::try_from(2 * spread.as_millis()).unwrap_or(1);
        self.timers.set(Timer::Feel, now.mono + spread + Duration::from_millis(millis));
        let challenged = self.book.challenged(|peer| self.peers.contains_key(peer));
        if self.outbound() < self.config.target_outbound {
            return;
        }
        let hearsay = || {
            let idle: Vec<_> = self.book.iter_new().filter(|(peer, entry)| self.is_idle(now, peer, entry)).collect();
            let drawn =
                idle.into_iter().min_by_key(|(peer, e)| (e.is_tried(), self.order.hash_one((now.mono.0, peer))));
            drawn.map(|(peer, _)| *peer)
        };
        let Some(peer) = challenged.or_else(hearsay) else { return };
        match self.dial(now, peer, Purpose::Feel) {
            Ok(()) | Err(Unmet::Resting | Unmet::Busy) => {}
            Err(Unmet::NoAddress | Unmet::Banned | Unmet::Denied) => self.book.lost(now.wall, &peer),
        }
    }

    /// When the first trial is due.
    pub(super) fn first_feeler() -> Timestamp {
        Timestamp::ZERO + FEELER_INTERVAL
    }
}
