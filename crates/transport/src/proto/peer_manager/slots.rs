//! Places: who is admitted, who makes room, who goes when there are enough.
//!
//! | connection | places | when they are taken |
//! |---|---|---|
//! | reserved, trusted | no limit | |
//! | outbound, to stay | `target_outbound` | none more is dialled |
//! | outbound, wanted just then | what is left of `max_peers`, and [`GUESTS`] | the oldest goes after `idle_timeout`, at once if need be; one that is drawn for a place to stay takes it |
//! | inbound | `max_peers` less `target_outbound`, and [`GUESTS`] for a moment | somebody is evicted after [`GUEST_KEEP`], at once if need be |
//!
//! A *seat* is a place that is no guest's: whoever has one has a floor in the budget. There are as many as `max_peers`, of which those
//! who come by themselves take no more than their places, and more while reserved and trusted peers are connected besides.

use core::time::Duration;
use peerage_core::{Action, CloseReason, LinkInfo, NodeId, Now, Outlet};

use super::{
    Peer, PeerEvent, PeerManager,
    eviction::{Candidate, select},
};

/// The default of `idle_timeout`: a peer that somebody wanted just then is kept at least so long (our guess: a lookup is over by then).
pub(super) const TRANSIENT_KEEP: Duration = Duration::from_secs(10);
/// Peers beyond the maximum that are admitted for a moment (our guess: with the next constant, five newcomers a second).
/// Without them a crowd of newcomers would cut each other off before any could ask for others.
pub(super) const GUESTS: usize = 16;
/// How long a newcomer is left alone unless there is a crowd of them (our guess: time to ask for others, over any way).
pub(super) const GUEST_KEEP: Duration = Duration::from_secs(3);

impl PeerManager {
    /// Peers that count against the limits.
    fn ordinary(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| !self.is_privileged(&peer.info.peer))
    }

    fn ordinary_inbound(&self) -> usize {
        self.ordinary().filter(|peer| !peer.info.outbound).count()
    }

    /// Outbound connections that are there to stay, reserved ones included.
    pub(super) fn kept(&self) -> usize {
        self.peers.values().filter(|peer| peer.is_kept()).count()
    }

    /// Finds a place for a newcomer that has no privilege; somebody may have to go. False if nobody can.
    ///
    /// Places for outbound connections are never given to those who come by themselves: whoever fills the rest must not cut
    /// the node off from those that it chose.
    pub(super) fn make_room(&mut self, now: Now, info: &LinkInfo, transient: bool) -> bool {
        let full = self.ordinary().count() >= self.config.max_peers + GUESTS;
        if !info.outbound {
            let crowd = self.ordinary_inbound() >= self.config.inbound_places() + GUESTS;
            return !(full || crowd) || self.evict(now, Duration::ZERO, Some(info.peer));
        }
        !full
            || self.close_oldest_transient(now, Duration::ZERO)
            || !transient && self.evict(now, Duration::ZERO, Some(info.peer))
    }

    /// Whether there is a seat for a peer that has none.
    pub(super) fn may_sit(&self, peer: &NodeId, outbound: bool) -> bool {
        let seated = || self.ordinary().filter(|peer| peer.seated);
        let inbound = || seated().filter(|peer| !peer.info.outbound).count();
        self.is_privileged(peer)
            || seated().count() < self.config.max_peers && (outbound || inbound() < self.config.inbound_places())
    }

    /// Tells for how many there are to be seats, if that is not what it was, and gives those that are free to guests, who came first
    /// first.
    pub(super) fn tell_seats(&mut self) {
        let mut guests: Vec<_> =
            self.peers.values().filter(|peer| !peer.seated).map(|peer| (peer.since, peer.link)).collect();
        guests.sort();
        let mut moved = Vec::new();
        for (_, link) in guests {
            let Some(peer) = self.links.get(&link).copied() else { continue };
            let outbound = self.peers.get(&peer).is_some_and(|peer| peer.info.outbound);
            if self.may_sit(&peer, outbound)
                && let Some(peer) = self.peers.get_mut(&peer)
            {
                peer.seated = true;
                moved.push(link);
            }
        }
        let seats = self.peers.values().filter(|peer| peer.seated).count().max(self.config.max_peers);
        if self.seats != seats {
            self.seats = seats;
            self.actions.push_back(Action::Link(Outlet::Seats(seats)));
        }
        self.actions.extend(moved.into_iter().map(|link| Action::Link(Outlet::Seat(link))));
    }

    /// Sends the inbound peer away that is easiest to do without, of those that have been here for so long; false if there is
    /// none. `by` is for whose sake.
    fn evict(&mut self, now: Now, age: Duration, by: Option<NodeId>) -> bool {
        let candidate = |peer: &Peer| Candidate::of(peer, self.config.addresses);
        let candidates = self.ordinary().filter(|peer| !peer.info.outbound).map(candidate).collect();
        let Some(peer) = select(candidates, self.config.inbound_places(), &self.order, now.mono, age) else {
            return false;
        };
        self.actions.push_back(Action::Emit(PeerEvent::Evicted { peer, by }));
        self.end(now, &peer, CloseReason::TooManyPeers);
        true
    }

    /// Evicts until nobody has a guest's place who has been here for a moment.
    pub(super) fn trim_inbound(&mut self, now: Now) {
        while self.ordinary_inbound() > self.config.inbound_places() && self.evict(now, GUEST_KEEP, None) {}
    }

    /// Ends one connection at a time that is too many: opened for a passing need, or kept when more were to be kept.
    pub(super) fn close_surplus(&mut self, now: Now) {
        if self.close_oldest_transient(now, self.config.idle_timeout) {
            return;
        }
        let chosen = |peer: &&Peer| peer.is_kept();
        if self.ordinary().filter(chosen).count() > self.config.target_outbound {
            let youngest = self.ordinary().filter(chosen).max_by_key(|peer| (peer.since, peer.link));
            if let Some(peer) = youngest.map(|peer| peer.info.peer) {
                self.end(now, &peer, CloseReason::Surplus);
            }
        }
    }

    /// Ends the connection that was wanted longest ago for a passing need, if that was so long ago.
    fn close_oldest_transient(&mut self, now: Now, age: Duration) -> bool {
        let passing = self.ordinary().filter(|peer| peer.transient && now.mono.since(peer.wanted) >= age);
        let oldest = passing.min_by_key(|peer| (peer.wanted, peer.link)).map(|peer| peer.info.peer);
        oldest.is_some_and(|peer| {
            self.end(now, &peer, CloseReason::Surplus);
            true
        })
    }

    /// Ends the connection to a peer, if there is one: our own wish, which says nothing against the peer.
    pub(super) fn end(&mut self, now: Now, peer: &NodeId, reason: CloseReason) {
        if let Some(link) = self.peers.get(peer).map(|peer| peer.link) {
            self.forget_link(now, link, true);
            self.close(link, reason);
        }
    }
}
