//! The manager as whoever runs it may look at it.

use core::net::SocketAddr;
use peerage_core::{NodeId, Now, UnixMillis};

use super::{Ban, KnownPeer, Peer, PeerLimits, PeerManager, Rule, Subject, TooManyBans};

/// By which right a peer has its place. The first that fits counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// The operator wants to be connected to it always.
    Reserved,
    /// The operator lets it in always.
    Trusted,
    /// One of those to whom the node has been connected longest; dialled first after a restart.
    Anchor,
    /// We dialled it to keep it.
    Outbound,
    /// We dialled it for somebody who wanted it just then: the first to go when there are enough.
    Passing,
    /// It came by itself.
    Inbound,
}

impl Standing {
    /// A stable name for programs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Trusted => "trusted",
            Self::Anchor => "anchor",
            Self::Outbound => "outbound",
            Self::Passing => "passing",
            Self::Inbound => "inbound",
        }
    }
}

impl PeerManager {
    /// The admitted peers.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The peer with this id, if it is admitted.
    pub fn peer(&self, id: &NodeId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// By which right an admitted peer has its place.
    pub fn standing(&self, peer: &Peer) -> Standing {
        let id = &peer.info.peer;
        match peer.info.outbound {
            _ if self.reserved.contains_key(id) => Standing::Reserved,
            _ if self.trusted.contains(id) => Standing::Trusted,
            true if peer.transient => Standing::Passing,
            true if self.anchors.contains(id) => Standing::Anchor,
            true => Standing::Outbound,
            false => Standing::Inbound,
        }
    }

    /// Misbehaviour points of a peer at this moment; at 100 it is sent away and banned.
    pub fn points(&self, now: Now, peer: NodeId) -> u32 {
        self.conduct.points(now.mono, peer)
    }

    /// How many peers the address book knows, connected or not.
    pub fn known(&self) -> usize {
        self.book.iter().count()
    }

    /// How many of them we know from hearsay, and how many a dial of ours reached.
    pub fn book_sizes(&self) -> (usize, usize) {
        self.book.sizes()
    }

    /// The bans that hold at this moment.
    pub fn bans(&self, wall: UnixMillis) -> Vec<Ban> {
        let mut bans = self.conduct.bans();
        bans.retain(|ban| ban.until > wall);
        bans
    }

    /// Whether the operator may ban somebody now.
    ///
    /// # Errors
    /// [`TooManyBans`]: as many of its bans hold as may.
    pub fn may_ban(&self, wall: UnixMillis, subject: &Subject) -> Result<(), TooManyBans> {
        self.conduct.may_order(wall, subject)
    }

    /// The limits that hold now.
    pub const fn limits(&self) -> PeerLimits {
        let config = &self.config;
        PeerLimits {
            target_outbound: config.target_outbound,
            max_peers: config.max_peers,
            outbound_per_group: config.outbound_per_group,
            acquire_timeout: config.acquire_timeout,
            idle_timeout: config.idle_timeout,
        }
    }

    /// Who alone may come in; all may if it is empty.
    pub fn allow(&self) -> &[Rule] {
        self.allow.lines()
    }

    /// Who may not come in.
    pub fn deny(&self) -> &[Rule] {
        self.deny.lines()
    }

    /// Who is reserved, and where it may be.
    pub fn reserved(&self) -> impl Iterator<Item = KnownPeer> {
        let addrs = |peer| self.book.get(peer).map_or_else(Vec::<SocketAddr>::new, |entry| entry.addrs.clone());
        self.reserved.keys().map(move |peer| KnownPeer { peer: *peer, addrs: addrs(peer) })
    }

    /// Who is trusted.
    pub fn trusted(&self) -> impl Iterator<Item = NodeId> {
        self.trusted.iter().copied()
    }
}
