//! What is kept of peers: in the book, and over a restart.

use core::{hash::BuildHasher, time::Duration};
use peerage_core::{Action, LinkInfo, Now};

use super::{Peer, PeerEvent, PeerManager, Timer, address, dialling::Purpose};

/// Changes of a small book are gathered for so long before they are told (our guess).
pub(super) const REMEMBER_AFTER: Duration = Duration::from_millis(500);
/// Those of a larger one, and such as are soon made up for, for so long (our guess: what a crash may lose; Bitcoin Core writes
/// its book each 15 minutes).
const REMEMBER_AFTER_LARGE: Duration = Duration::from_secs(60);
/// A book of more peers is a larger one (our guess: 16 KiB on disk).
const SMALL_BOOK: usize = 64;
/// Peers remembered on disk: all that our dials reached have a place in `tried`, hearsay fills the rest (our guess).
const REMEMBERED: usize = 1024;
/// Peers to whom we were connected longest, dialled first after a restart (Bitcoin Core, `MAX_BLOCK_RELAY_ONLY_ANCHORS`).
pub(super) const ANCHORS: usize = 2;
/// A connection that lasted so long clears the failures before it (our guess). One that ended sooner is one more: whoever
/// turns us away only after the handshake is no better than an address at which nobody answers.
pub(super) const LASTING: Duration = Duration::from_secs(60);

impl PeerManager {
    /// A peer is there. `purpose` is what it was dialled for, if it was.
    pub(super) fn remember_good(&mut self, now: Now, info: &LinkInfo, purpose: Option<Purpose>) {
        let policy = self.config.addresses;
        let host = info.remote.ip().to_canonical();
        let claimed = info.listen.iter().map(|listen| address::reachable(*listen, info.remote));
        // A handshake proves who somebody is, not where else: other addresses come with signed records.
        let claimed: Vec<_> = claimed.filter(|addr| policy.allows(*addr) && addr.ip().to_canonical() == host).collect();
        let entry = self.book.hear(now.wall, info.peer, claimed, Some(info.remote.ip()));
        entry.not_before = now.mono;
        entry.dial_key = info.dial_key.or(entry.dial_key);
        match purpose {
            _ if !info.outbound => {}
            Some(Purpose::Now) => self.book.met(&info.peer, info.remote),
            Some(Purpose::Feel | Purpose::Keep) | None => self.book.reached(now.wall, info.peer, info.remote),
        }
        self.remember_soon(now);
    }

    /// Connections that we chose and that last speak for their peers.
    pub(super) fn vouch(&mut self, now: Now) {
        for peer in self.peers.values() {
            let lasts = now.mono.since(peer.since) >= LASTING;
            if let Some(entry) = self.book.get_mut(&peer.info.peer).filter(|_| lasts && peer.is_kept()) {
                entry.vouch(now.wall);
            }
        }
    }

    /// Something changed that should outlive a crash.
    pub(super) fn remember_soon(&mut self, now: Now) {
        let small = self.book.iter().nth(SMALL_BOOK).is_none();
        self.remember_within(now, if small { REMEMBER_AFTER } else { REMEMBER_AFTER_LARGE });
    }

    /// Something changed that is soon made up for: hearsay, a failure.
    pub(super) fn remember_later(&mut self, now: Now) {
        self.remember_within(now, REMEMBER_AFTER_LARGE);
    }

    fn remember_within(&mut self, now: Now, after: Duration) {
        let at = self.timers.deadline(&Timer::Remember).map_or(now.mono + after, |at| at.min(now.mono + after));
        self.timers.set(Timer::Remember, at);
    }

    /// Tells the book as it is.
    pub(super) fn tell_remembered(&mut self, now: Now) {
        self.timers.cancel(&Timer::Remember);
        self.vouch(now);
        let stays = |peer: &&Peer| peer.is_kept() && !self.is_reserved(&peer.info.peer);
        let mut standing: Vec<_> = self.peers.values().filter(stays).collect();
        standing.sort_by_key(|peer| (peer.since, peer.link));
        // Those from before a restart stay anchors until there are others: it may take a while to be connected again.
        let before = self.anchors.iter().copied().filter(|id| standing.iter().all(|peer| peer.info.peer != *id));
        let anchors: Vec<_> = standing.iter().map(|peer| peer.info.peer).chain(before).take(ANCHORS).collect();
        self.anchors = anchors.into_iter().collect();
        let lines = self.book.lines(REMEMBERED, &self.anchors, |peer| self.order.hash_one(peer));
        self.actions.push_back(Action::Emit(PeerEvent::Remember(lines)));
    }
}
