//! The peer manager: the only protocol that dials, admits and disconnects.
//!
//! Others say whom they want ([`Want`]) and who misbehaved ([`Fault`]); it decides. It keeps a target number of outbound
//! connections, backs off from addresses that fail, comes back to reserved peers and to those that were good before, and
//! settles which of two connections to the same peer stays.
//!
//! | link state | meaning | next |
//! |---|---|---|
//! | dialling | an address is being tried for a peer | up, failed (backoff) |
//! | up | the peer proved itself; nobody else knows of it yet | admitted, closed |
//! | admitted | it counts: `PeerUp` goes to everybody | closed |

mod address;
mod book;
mod conduct;
#[cfg(test)]
mod tests;

use core::{cmp::Reverse, hash::BuildHasher, net::SocketAddr, time::Duration};
use peerage_core::{
    Action, CloseReason, Closed, Done, Fault, JobId, KeyedState, LinkId, LinkInfo, NetworkEvent, NoJob, NodeId, Now,
    Outlet, Protocol, Seed, SeededRng, Timers, Timestamp, UnixMillis, Want,
};
use std::collections::{BTreeMap, VecDeque};

use crate::proto::admission::Group;
pub use address::AddressPolicy;
use book::{Book, Entry};
use conduct::Conduct;
pub use conduct::{Ban, Subject};

/// Somebody worth coming back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Who.
    pub peer: NodeId,
    /// Where, best first.
    pub addrs: Vec<SocketAddr>,
}

/// How the manager behaves.
#[derive(Clone, Debug)]
pub struct PeerManagerConfig {
    /// Who we are; never dialled.
    pub local: NodeId,
    /// Outbound connections to keep. Default 8 (Bitcoin Core's count of full-relay outbound peers).
    pub target_outbound: usize,
    /// Peers in all; beyond this only reserved ones are admitted to stay. Default 64 (our guess).
    pub max_peers: usize,
    /// Peers named by the operator: dialled always, admitted always.
    pub reserved: Vec<KnownPeer>,
    /// Peers that were good before a restart, as told by [`PeerEvent::Remember`].
    pub remembered: Vec<KnownPeer>,
    /// Bans from before a restart, as told by [`PeerEvent::Bans`].
    pub bans: Vec<Ban>,
    /// Which learned addresses may be dialled. [`AddressPolicy::Loopback`] also frees 127.0.0.0/8 from bans of its group.
    pub addresses: AddressPolicy,
}

impl PeerManagerConfig {
    /// The defaults for a node.
    pub const fn new(local: NodeId) -> Self {
        Self {
            local,
            target_outbound: 8,
            max_peers: 64,
            reserved: Vec::new(),
            remembered: Vec::new(),
            bans: Vec::new(),
            addresses: AddressPolicy::Public,
        }
    }
}

/// What the layers above ask of the manager.
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
}

/// What the manager tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The peers to come back to after a restart, best first; to be kept on disk by whoever runs the manager.
    Remember(Vec<KnownPeer>),
    /// All bans, after one was added; to be kept on disk likewise.
    Bans(Vec<Ban>),
    /// A fault was booked. A ban that follows is told after it.
    Fault {
        /// Whose.
        peer: NodeId,
        /// What it did.
        fault: Fault,
    },
}

/// One admitted peer, for whoever asks.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who and from where.
    pub info: LinkInfo,
    /// Since when.
    pub since: Timestamp,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    link: LinkId,
    /// Connected because somebody wanted it just then: the first to go when there are enough.
    transient: bool,
    /// Admitted for a moment although there is no room.
    guest: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Time to look at targets, surplus and backoffs.
    Maintain,
    /// Time to tell whom to remember.
    Remember,
}

/// How often targets are looked at (our guess: far below the first backoff costs nothing).
const MAINTAIN_EVERY: Duration = Duration::from_millis(250);
/// Changes of the remembered peers are gathered for so long before they are told (our guess).
const REMEMBER_AFTER: Duration = Duration::from_millis(500);
/// Dials under way at most (our guess; Bitcoin Core opens one at a time, geth 16).
const MAX_DIALS: usize = 16;
/// A peer that somebody wanted just then is kept at least so long (our guess: a lookup is over by then).
const TRANSIENT_KEEP: Duration = Duration::from_secs(10);
/// Peers beyond the maximum that are admitted for a moment (our guess: with the next constant, five newcomers a second).
/// Without them a full node would shut out of the network everybody who knows no other.
const GUESTS: usize = 16;
/// How long such a peer stays unless a place becomes free (our guess: time to ask for others, over any way).
const GUEST_KEEP: Duration = Duration::from_secs(3);
/// A connection that lasted so long clears the failures before it (our guess). One that ended sooner is one more: whoever
/// turns us away only after the handshake is no better than an address at which nobody answers.
const LASTING: Duration = Duration::from_secs(60);
/// A reserved peer that misbehaved is not dialled for so long (our guess: a bug does not go away in seconds).
const RESERVED_PENANCE: Duration = Duration::from_secs(60);
/// Peers that left and whose group of addresses is still known when a late complaint comes (our guess).
const DEPARTED: usize = 256;
/// Peers remembered on disk (our guess; Bitcoin Core keeps 2 anchors and a whole book).
const REMEMBERED: usize = 32;

/// The machine. See the module's documentation.
pub struct PeerManager {
    config: PeerManagerConfig,
    dice: SeededRng,
    order: KeyedState,
    book: Book,
    conduct: Conduct,
    /// Addresses being dialled, for whom, and whether somebody wants the peer just now.
    dials: BTreeMap<SocketAddr, (NodeId, bool)>,
    peers: BTreeMap<NodeId, Peer>,
    links: BTreeMap<LinkId, NodeId>,
    /// Who left last, and which group of addresses answers for them.
    departed: VecDeque<(NodeId, Option<Group>)>,
    timers: Timers<Timer>,
    actions: VecDeque<Action<Self>>,
}

impl PeerManager {
    /// A manager that begins to dial at its first timeout, which is due at once.
    pub fn new(config: PeerManagerConfig, seed: &Seed) -> Self {
        let mut book = Book::default();
        for known in config.remembered.iter().rev() {
            if let Some(entry) = book.entry(known.peer) {
                entry.learn(known.addrs.iter().copied());
                entry.last_good = Some(UnixMillis(0)); // good once, we do not know when
            }
        }
        for known in &config.reserved {
            if let Some(entry) = book.entry(known.peer) {
                entry.learn(known.addrs.iter().copied());
                entry.reserved = true;
            }
        }
        let mut timers = Timers::new();
        timers.set(Timer::Maintain, Timestamp::ZERO);
        let dice = seed.stream("peer-manager");
        let conduct = Conduct::new(&config.bans);
        Self {
            config,
            dice,
            order: seed.hasher("peer-manager"),
            book,
            conduct,
            dials: BTreeMap::new(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            departed: VecDeque::new(),
            timers,
            actions: VecDeque::new(),
        }
    }

    /// The admitted peers.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The peer with this id, if it is admitted.
    pub fn peer(&self, id: &NodeId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// Misbehaviour points of a peer at this moment; at 100 it is sent away and banned.
    pub fn points(&self, now: Now, peer: NodeId) -> u32 {
        self.conduct.points(now.mono, peer)
    }

    /// How many peers the address book knows, connected or not.
    pub fn known(&self) -> usize {
        self.book.iter().count()
    }

    fn link_up(&mut self, now: Now, link: LinkId, info: LinkInfo) {
        let peer = info.peer;
        let wanted = self.dial_over(&info);
        if peer == self.config.local {
            return self.turn_away(now, link, &info, CloseReason::SelfConnection);
        }
        let reserved = self.is_reserved(&peer);
        if !reserved && self.is_banned(now, &info) {
            return self.turn_away(now, link, &info, CloseReason::Banned);
        }
        if let Some(old) = self.peers.get(&peer) {
            if !self.prefers_new(&old.info, &info) {
                return self.close(link, CloseReason::Duplicate);
            }
            let old = old.link;
            // First the old, then the new: everybody hears that what was under way may be lost.
            self.forget_link(now, old);
            self.close(old, CloseReason::Duplicate);
        }
        let guest = !reserved && !self.has_room(&info);
        if guest && self.peers.values().filter(|peer| peer.guest).count() >= GUESTS {
            return self.turn_away(now, link, &info, CloseReason::TooManyPeers);
        }
        self.remember_good(now, &info);
        self.links.insert(link, peer);
        let transient = wanted && info.outbound && self.outbound() >= self.config.target_outbound;
        self.peers.insert(peer, Peer { info, since: now.mono, rtt: None, link, transient, guest });
        self.actions.push_back(Action::Link(Outlet::Admit(link)));
    }

    /// Whether a slot is free. Places for outbound connections are never given to those who come by themselves: whoever
    /// fills the rest must not cut the node off from those that it chose.
    fn has_room(&self, info: &LinkInfo) -> bool {
        let stay = || self.peers.values().filter(|peer| !peer.guest);
        let inbound = stay().filter(|peer| !peer.info.outbound).count();
        let places = self.config.max_peers.saturating_sub(self.config.target_outbound);
        stay().count() < self.config.max_peers && (info.outbound || inbound < places)
    }

    /// Which of two connections to one peer stays. When both sides dialled at once, both must choose the same: the one
    /// that the lower identity opened. When one side opened both, its newer one tells that it lost the older, and again both
    /// must choose the same.
    fn prefers_new(&self, old: &LinkInfo, new: &LinkInfo) -> bool {
        if old.outbound == new.outbound {
            return true;
        }
        let opener = if new.outbound { self.config.local } else { new.peer };
        opener == self.config.local.min(new.peer)
    }

    /// Ends the dial that led to this connection; says whether somebody wanted the peer just then.
    fn dial_over(&mut self, info: &LinkInfo) -> bool {
        info.outbound && self.dials.remove(&info.remote).is_some_and(|(_, now)| now)
    }

    fn remember_good(&mut self, now: Now, info: &LinkInfo) {
        let policy = self.config.addresses;
        if let Some(entry) = self.book.entry(info.peer) {
            let claimed = info.listen.iter().map(|listen| address::reachable(*listen, info.remote));
            entry.learn(claimed.filter(|addr| policy.allows(*addr)));
            if info.outbound {
                entry.learn([info.remote]); // proved by this very connection
                entry.last_good = Some(now.wall);
            } else {
                entry.last_inbound = Some(now.wall);
            }
            entry.not_before = now.mono;
            entry.dial_key = info.dial_key.or(entry.dial_key);
            self.remember_soon(now);
        }
    }

    fn remember_soon(&mut self, now: Now) {
        if self.timers.deadline(&Timer::Remember).is_none() {
            self.timers.set(Timer::Remember, now.mono + REMEMBER_AFTER);
        }
    }

    fn forget_link(&mut self, now: Now, link: LinkId) -> Option<NodeId> {
        let peer = self.links.remove(&link)?;
        let mut lasted = false;
        if let Some(gone) = self.peers.remove(&peer) {
            lasted = now.mono.since(gone.since) >= LASTING;
            self.departed.push_back((peer, self.group_of(&gone.info)));
            if self.departed.len() > DEPARTED {
                self.departed.pop_front();
            }
        }
        if let Some(entry) = self.book.get_mut(&peer) {
            if lasted {
                entry.failures = 0;
            }
            entry.failed(now.mono, &mut self.dice); // it may be restarting: not at once again
        }
        Some(peer)
    }

    fn dial_failed(&mut self, now: Now, addr: SocketAddr, closed: Closed) {
        let Some((peer, _)) = self.dials.remove(&addr) else { return };
        let Some(entry) = self.book.get_mut(&peer) else { return };
        entry.failed(now.mono, &mut self.dice);
        if closed.reason == CloseReason::WrongSuite {
            entry.dial_key = None; // it does without the handshake that needs one
        }
        if closed.reason == CloseReason::WrongPeer && !entry.reserved {
            entry.addrs.retain(|known| *known != addr);
        }
    }

    fn want(&mut self, now: Now, want: Want) {
        let (peer, addrs, at_once) = match want {
            Want::Candidate { peer, addrs } => (peer, addrs, false),
            Want::Now { peer, addrs } => (peer, addrs, true),
        };
        if peer == self.config.local {
            return;
        }
        let policy = self.config.addresses;
        let Some(entry) = self.book.entry(peer) else { return };
        entry.learn(addrs.into_iter().filter(|addr| policy.allows(*addr)).collect::<Vec<_>>());
        if at_once && !self.peers.contains_key(&peer) {
            self.dial(now, peer, true);
        }
    }

    fn dial(&mut self, now: Now, peer: NodeId, at_once: bool) {
        let Some(entry) = self.book.get(&peer) else { return };
        let Some(addr) = entry.next_addr() else { return };
        let dial_key = entry.dial_key;
        if !entry.reserved && self.conduct.banned(now.wall, &Subject::Peer(peer)).is_some() {
            return;
        }
        let busy = self.dials.contains_key(&addr) || self.dials.values().any(|(other, _)| *other == peer);
        if busy || entry.not_before > now.mono || self.dials.len() >= MAX_DIALS {
            return;
        }
        self.dials.insert(addr, (peer, at_once));
        self.actions.push_back(Action::Link(Outlet::Dial { addr, expected: Some(peer), dial_key }));
    }

    fn outbound(&self) -> usize {
        self.peers.values().filter(|peer| peer.info.outbound).count()
    }

    fn maintain(&mut self, now: Now) {
        self.timers.set(Timer::Maintain, now.mono + MAINTAIN_EVERY);
        let missing = self.config.target_outbound.saturating_sub(self.outbound() + self.dials.len());
        let idle = |(peer, entry): &(&NodeId, &Entry)| {
            let banned = !entry.reserved && self.conduct.banned(now.wall, &Subject::Peer(**peer)).is_some();
            !banned && !self.peers.contains_key(*peer) && entry.not_before <= now.mono && !entry.addrs.is_empty()
        };
        let (reserved, mut others): (Vec<_>, Vec<_>) =
            self.book.iter().filter(idle).partition(|(_, entry)| entry.reserved);
        if missing == 0 {
            others.clear(); // the usual case: nothing to sort
        }
        // Those that our own dials reached last come first, then whoever failed least; equal ones in an order that nobody
        // outside can foresee, so that no identity can be made to come first.
        others
            .sort_by_cached_key(|(peer, entry)| (Reverse(entry.last_good), entry.failures, self.order.hash_one(peer)));
        let chosen: Vec<_> =
            reserved.into_iter().chain(others.into_iter().take(missing)).map(|(peer, _)| *peer).collect();
        for peer in chosen {
            self.dial(now, peer, false);
        }
        self.see_guests_off(now);
        self.close_surplus(now);
    }

    /// Lets guests stay if there is room by now, and ends their connections when their time is over.
    fn see_guests_off(&mut self, now: Now) {
        let guests: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.guest).map(|(id, _)| *id).collect();
        for id in guests {
            let Some(peer) = self.peers.get(&id) else { continue };
            let (link, over) = (peer.link, now.mono.since(peer.since) >= GUEST_KEEP);
            if self.has_room(&peer.info) {
                self.peers.entry(id).and_modify(|peer| peer.guest = false);
            } else if over {
                self.forget_link(now, link);
                self.close(link, CloseReason::TooManyPeers);
            }
        }
    }

    /// Ends one connection at a time that was opened for a passing need, once there are enough others.
    fn close_surplus(&mut self, now: Now) {
        if self.outbound() <= self.config.target_outbound {
            return;
        }
        let passing = |peer: &&Peer| peer.transient && now.mono.since(peer.since) >= TRANSIENT_KEEP;
        if let Some(link) = self.peers.values().filter(passing).min_by_key(|peer| peer.since).map(|peer| peer.link) {
            self.forget_link(now, link);
            self.close(link, CloseReason::Surplus);
        }
    }

    fn tell_remembered(&mut self) {
        let mut good: Vec<_> = self.book.iter().filter(|(_, entry)| entry.is_remembered()).collect();
        good.sort_by_key(|(_, entry)| (Reverse(entry.last_good), Reverse(entry.last_inbound)));
        let known = |(peer, entry): (&NodeId, &Entry)| KnownPeer { peer: *peer, addrs: entry.addrs.clone() };
        let list = good.into_iter().filter(|(_, entry)| !entry.addrs.is_empty()).take(REMEMBERED).map(known).collect();
        self.actions.push_back(Action::Emit(PeerEvent::Remember(list)));
    }

    /// Books a fault, also of a peer that is gone by now: verdicts come late, and hanging up must not be a way out.
    fn report(&mut self, now: Now, peer: NodeId, fault: Fault) {
        let group = match self.peers.get(&peer) {
            Some(known) => self.group_of(&known.info),
            None => self.departed.iter().rev().find(|(departed, _)| *departed == peer).and_then(|(_, group)| *group),
        };
        let banned = self.conduct.book(now.mono, now.wall, peer, group, fault);
        self.actions.push_back(Action::Emit(PeerEvent::Fault { peer, fault }));
        if banned.is_empty() {
            return;
        }
        if banned.contains(&Subject::Peer(peer)) {
            self.send_away(now, peer);
        }
        self.actions.push_back(Action::Emit(PeerEvent::Bans(self.conduct.bans())));
    }

    /// Ends the connection to a peer that is banned. The operator's own choice is sent away too, but may come back.
    fn send_away(&mut self, now: Now, peer: NodeId) {
        let reserved = self.is_reserved(&peer);
        if reserved {
            self.conduct.pardon(&Subject::Peer(peer));
        }
        let Some(link) = self.peers.get(&peer).map(|peer| peer.link) else { return };
        self.forget_link(now, link);
        if let Some(entry) = self.book.get_mut(&peer).filter(|_| reserved) {
            entry.not_before = now.mono + RESERVED_PENANCE;
        }
        self.close(link, if reserved { CloseReason::Misbehaviour } else { CloseReason::Banned });
    }

    fn is_reserved(&self, peer: &NodeId) -> bool {
        self.book.get(peer).is_some_and(|entry| entry.reserved)
    }

    /// The group of addresses that answers for a peer, if any does.
    fn group_of(&self, info: &LinkInfo) -> Option<Group> {
        let exempt = self.config.addresses == AddressPolicy::Loopback && info.remote.ip().to_canonical().is_loopback();
        (!exempt).then(|| Group::of(info.remote.ip()))
    }

    /// Whether a peer is banned: by itself, or as a stranger from a banned group. A group's ban never concerns those whom
    /// our own dials reached before, nor whom we dial now; else a neighbour could have an honest node cut off.
    fn is_banned(&self, now: Now, info: &LinkInfo) -> bool {
        let banned = |subject| self.conduct.banned(now.wall, &subject).is_some();
        let known = info.outbound || self.book.get(&info.peer).is_some_and(|entry| entry.last_good.is_some());
        banned(Subject::Peer(info.peer)) || !known && self.group_of(info).map(Subject::Group).is_some_and(banned)
    }

    /// Turns a link away that was never admitted; if we dialled it, not at once again.
    fn turn_away(&mut self, now: Now, link: LinkId, info: &LinkInfo, reason: CloseReason) {
        if let Some(entry) = self.book.get_mut(&info.peer).filter(|_| info.outbound) {
            entry.failed(now.mono, &mut self.dice);
        }
        self.close(link, reason);
    }

    fn close(&mut self, link: LinkId, reason: CloseReason) {
        self.actions.push_back(Action::Link(Outlet::Close { link, reason }));
    }
}

impl Protocol for PeerManager {
    type Command = PeerCommand;
    type Event = PeerEvent;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::LinkUp { link, info } => self.link_up(now, link, info),
            NetworkEvent::LinkDown { link, .. } => drop(self.forget_link(now, link)),
            NetworkEvent::DialFailed { addr, closed, .. } => self.dial_failed(now, addr, closed),
            NetworkEvent::PeerStats { peer, rtt } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.rtt = Some(rtt);
                }
            }
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Now, command: PeerCommand) {
        match command {
            PeerCommand::Want(want) => self.want(now, want),
            PeerCommand::Report { peer, fault } => self.report(now, peer, fault),
            PeerCommand::Disconnect { peer, reason } => {
                if let Some(link) = self.peers.get(&peer).map(|peer| peer.link) {
                    self.forget_link(now, link);
                    self.close(link, reason);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            match timer {
                Timer::Maintain => self.maintain(now),
                Timer::Remember => self.tell_remembered(),
            }
        }
    }

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.timers.next()
    }
}
