//! What the manager is told at its start, asked while it runs, and tells.

use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use peerage_core::{CloseReason, Fault, NodeId, Seed, UnixMillis, Unmet, Want};

use super::{AddressPolicy, Ban, Rule, Subject, TooManyBans, dialling::ACQUIRE, slots::TRANSIENT_KEEP};

/// Somebody worth coming back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Who.
    pub peer: NodeId,
    /// Where, best first.
    pub addrs: Vec<SocketAddr>,
}

/// A line of the address book, as it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookLine {
    /// Who, and where.
    pub known: KnownPeer,
    /// Whether a dial of ours reached it.
    pub tried: bool,
    /// When one did for the last time.
    pub last_good: Option<UnixMillis>,
    /// Whether a connection that the manager chose to keep has lasted.
    pub stayed: bool,
    /// When it was last told or seen; 0 if nobody knows.
    pub heard: UnixMillis,
    /// Dials that led to nothing since.
    pub failures: u32,
    /// Who told of it: the address of that peer, whose group of addresses says in which buckets the line may stand.
    pub source: Option<IpAddr>,
    /// The address by which it has its place in the book; the first one if nobody knows.
    pub stands_by: Option<SocketAddr>,
    /// One of those to whom we were connected longest: dialled first after a restart, so that whoever fills the book cannot
    /// choose whom a restarted node meets.
    pub anchor: bool,
}

impl BookLine {
    /// A peer that was good once; nothing else is known.
    pub const fn good_once(known: KnownPeer) -> Self {
        Self {
            known,
            tried: true,
            last_good: None,
            stayed: false,
            heard: UnixMillis(0),
            failures: 0,
            source: None,
            stands_by: None,
            anchor: false,
        }
    }
}

/// How the manager behaves.
#[derive(Clone, Debug)]
pub struct PeerManagerConfig {
    /// Who we are; never dialled.
    pub local: NodeId,
    /// Outbound connections to keep. Default 8 (Bitcoin Core's count of full-relay outbound peers).
    pub target_outbound: usize,
    /// Peers in all; beyond this only reserved and trusted ones are admitted to stay. Default 64 (our guess).
    pub max_peers: usize,
    /// Outbound connections that stay within one /16 of IPv4 or /32 of IPv6, reserved ones aside. Default 1 (Bitcoin Core).
    pub outbound_per_group: usize,
    /// How long a wish for somebody at once waits while all dials are taken. Default 2 s (our guess: half of what a lookup
    /// waits).
    pub acquire_timeout: Duration,
    /// How long a connection beyond `target_outbound` is kept after it was wanted last. Default 10 s (our guess: a lookup is
    /// over by then).
    pub idle_timeout: Duration,
    /// Peers that the operator wants to be connected to always: dialled always, admitted always, never evicted or banned.
    pub reserved: Vec<KnownPeer>,
    /// Peers that the operator named for a start. They are dialled when somebody wants them, at these addresses whatever
    /// `addresses` says.
    pub seeds: Vec<KnownPeer>,
    /// Peers that the operator lets in always: admitted beyond all limits, never evicted or banned, and not dialled for that.
    pub trusted: Vec<NodeId>,
    /// If there are any, only those that one of these names come in or are dialled, and those reserved and trusted.
    pub allow: Vec<Rule>,
    /// Whoever one of these names does not come in and is not dialled. This list wins over all others.
    pub deny: Vec<Rule>,
    /// The book from before a restart, as told by [`PeerEvent::Remember`].
    pub remembered: Vec<BookLine>,
    /// Bans from before a restart, as told by [`PeerEvent::Bans`].
    pub bans: Vec<Ban>,
    /// Which learned addresses may be dialled. [`AddressPolicy::Loopback`] also frees 127.0.0.0/8 from bans of its group, and
    /// counts each port there as a group of its own.
    pub addresses: AddressPolicy,
    /// The secret that says where in the book a peer stands; kept over a restart, a book keeps its order. Without one it is
    /// drawn from the seed.
    pub book_key: Option<Seed>,
}

/// How many peers, as it may be changed while the manager runs. See the fields of [`PeerManagerConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Outbound connections to keep.
    pub target_outbound: usize,
    /// Peers in all.
    pub max_peers: usize,
    /// Outbound connections that stay within one group.
    pub outbound_per_group: usize,
    /// How long a wish for somebody at once waits while all dials are taken.
    pub acquire_timeout: Duration,
    /// How long a connection beyond the target is kept after it was wanted last.
    pub idle_timeout: Duration,
}

impl Default for PeerLimits {
    /// Those of [`PeerManagerConfig::new`].
    fn default() -> Self {
        Self {
            target_outbound: 8,
            max_peers: 64,
            outbound_per_group: 1,
            acquire_timeout: ACQUIRE,
            idle_timeout: TRANSIENT_KEEP,
        }
    }
}

impl PeerManagerConfig {
    /// The defaults for a node.
    pub const fn new(local: NodeId) -> Self {
        Self {
            local,
            target_outbound: 8,
            max_peers: 64,
            outbound_per_group: 1,
            acquire_timeout: ACQUIRE,
            idle_timeout: TRANSIENT_KEEP,
            reserved: Vec::new(),
            seeds: Vec::new(),
            trusted: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            remembered: Vec::new(),
            bans: Vec::new(),
            addresses: AddressPolicy::Public,
            book_key: None,
        }
    }

    /// Places for those who come by themselves: the others are kept for those whom we choose.
    pub(super) const fn inbound_places(&self) -> usize {
        self.max_peers.saturating_sub(self.target_outbound)
    }
}

/// What the layers above, or the operator, ask of the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCommand {
    /// A wish of another protocol.
    Want(Want),
    /// A complaint of another protocol.
    Report {
        /// About whom.
        peer: NodeId,
        /// What it did.
        fault: Fault,
    },
    /// End the connection to a peer.
    Disconnect {
        /// Which.
        peer: NodeId,
        /// Why; the peer is told.
        reason: CloseReason,
    },
    /// Other limits from now on. Who is too many goes within moments.
    Limits(PeerLimits),
    /// Ban an identity or a group of addresses for so long, and send away whom it concerns; or answer with
    /// [`PeerEvent::BanRefused`].
    Ban {
        /// Whom.
        subject: Subject,
        /// For how long.
        lasting: Duration,
    },
    /// Lift a ban.
    Unban(Subject),
    /// Another list of who alone may come in; an empty one lets everybody in.
    Allow(Vec<Rule>),
    /// Another list of who may not come in.
    Deny(Vec<Rule>),
    /// Be connected to this peer from now on, whatever happens.
    Reserve(KnownPeer),
    /// Treat a reserved peer like any other from now on; a connection to it stays, unless a list or a ban concerns it.
    Release(NodeId),
    /// Let this peer in always from now on (`true`), or like any other; then it goes if a list or a ban concerns it.
    Trust(NodeId, bool),
    /// The operator's seeds are these from now on: what their names mean may change.
    Seeds(Vec<KnownPeer>),
    /// Tell the book now ([`PeerEvent::Remember`]), e.g. before a stop.
    Remember,
}

/// What the manager tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The book to come back to after a restart, best first; to be kept on disk by whoever runs the manager.
    Remember(Vec<BookLine>),
    /// All bans, after a change; to be kept on disk likewise.
    Bans(Vec<Ban>),
    /// A fault was booked. A ban that follows is told after it.
    Fault {
        /// Whose.
        peer: NodeId,
        /// What it did.
        fault: Fault,
    },
    /// Somebody was banned. All bans follow as [`PeerEvent::Bans`].
    Banned {
        /// Whom it concerns.
        subject: Subject,
        /// Until when.
        until: UnixMillis,
        /// Whether the operator did, and not the faults that were booked.
        by_hand: bool,
    },
    /// The operator's ban was not carried out: too many others hold.
    BanRefused {
        /// Whom it was to concern.
        subject: Subject,
        /// Why not.
        why: TooManyBans,
    },
    /// A ban was lifted before its time. All bans follow as [`PeerEvent::Bans`].
    Unbanned {
        /// Whom it concerned.
        subject: Subject,
    },
    /// A peer had to make room for others.
    Evicted {
        /// Who.
        peer: NodeId,
        /// For whose sake: who came while there was no place left; nobody in particular if a guest's time was over.
        by: Option<NodeId>,
    },
    /// A [`Want::Now`] that will not be granted. A dial for it that failed is not told so, but by whoever runs the manager, as
    /// [`DialFailed`](peerage_core::NetworkEvent::DialFailed). A [`Managed`](crate::proto::managed::Managed) stack tells it to
    /// whoever asked, as [`NetworkEvent::Unmet`](peerage_core::NetworkEvent::Unmet).
    Unmet {
        /// Who was wanted.
        peer: NodeId,
        /// Why not.
        why: Unmet,
    },
    /// A reserved peer cannot be dialled, and that does not pass by itself: no address of it is known, or the operator's own
    /// list forbids it. Told once, until it can.
    ReservedUndialled {
        /// Who.
        peer: NodeId,
        /// Why.
        why: Unmet,
    },
    /// One identity came from two hosts while its first connection was alive. The first one stays; either its key was copied,
    /// or it moved and will be let in when the old connection has been silent for a while.
    TwoHosts {
        /// Who.
        peer: NodeId,
        /// Where the connection that stays leads.
        kept: SocketAddr,
        /// From where the other one came.
        refused: SocketAddr,
    },
}
