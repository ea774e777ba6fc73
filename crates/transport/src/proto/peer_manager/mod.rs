//! The peer manager: the only protocol that dials, admits and disconnects.
//!
//! Others say whom they want ([`Want`](peerage_core::Want)) and who misbehaved ([`Fault`]); it decides. It keeps a target
//! number of outbound connections, each in another group of addresses, backs off from addresses that fail, comes back to
//! reserved peers and to those that were good before, makes room in a full node, tries out whom it knows from hearsay, and
//! settles which of two connections to the same peer stays. The operator's word ([`PeerCommand`]) may change while it runs.
//!
//! The pool follows the load: it keeps `target_outbound` connections when nobody wants more, opens others as they are wanted
//! ([`Want::Now`](peerage_core::Want::Now)), up to `max_peers` and a few guests, and ends them when they have not been wanted
//! for a while. A wish that cannot be granted is answered ([`PeerEvent::Unmet`]).
//!
//! | link state | meaning | next |
//! |---|---|---|
//! | dialling | an address is being tried for a peer | up, failed (backoff) |
//! | up | the peer proved itself; nobody else knows of it yet | admitted, closed |
//! | admitted | it counts: `PeerUp` goes to everybody | closed |

mod address;
mod book;
mod conduct;
mod config;
mod dialling;
mod eviction;
mod lists;
mod slots;
mod table;
#[cfg(test)]
mod tests;

use core::{
    hash::BuildHasher,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use peerage_core::{
    Action, CloseReason, Done, Fault, JobId, KeyedState, LinkId, LinkInfo, LinkStats, NetworkEvent, NoJob, NodeId, Now,
    Outlet, Protocol, Seed, SeededRng, Timers, Timestamp, UnixMillis,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::proto::admission::Group;
pub use address::AddressPolicy;
use book::{Book, Entry};
use conduct::Conduct;
pub use conduct::{Ban, Subject};
pub use config::{BookLine, KnownPeer, PeerCommand, PeerEvent, PeerLimits, PeerManagerConfig, Unmet};
use dialling::{Dial, Purpose};
pub use lists::{Net, ParseRuleError, Rule};

/// One admitted peer, for whoever asks.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who and from where.
    pub info: LinkInfo,
    /// Since when.
    pub since: Timestamp,
    /// What heartbeats have shown, once one came back.
    pub stats: Option<LinkStats>,
    link: LinkId,
    /// Connected because somebody wanted it just then: the first to go when there are enough.
    transient: bool,
    /// When somebody wanted it last.
    wanted: Timestamp,
    /// When it last gave a sign of life.
    heard: Timestamp,
    /// When it last delivered something that nobody had delivered before.
    useful: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Time to look at targets, surplus and backoffs.
    Maintain,
    /// Time to try somebody out.
    Feel,
    /// Time to tell whom to remember.
    Remember,
}

/// Changes of a small book are gathered for so long before they are told (our guess).
const REMEMBER_AFTER: Duration = Duration::from_millis(500);
/// Those of a larger one for so long (our guess: what a crash may lose; Bitcoin Core writes its book each 15 minutes).
const REMEMBER_AFTER_LARGE: Duration = Duration::from_secs(60);
/// A book of more peers is a larger one (our guess: 16 KiB on disk).
const SMALL_BOOK: usize = 64;
/// A connection that lasted so long clears the failures before it (our guess). One that ended sooner is one more: whoever
/// turns us away only after the handshake is no better than an address at which nobody answers.
const LASTING: Duration = Duration::from_secs(60);
/// A reserved peer that misbehaved is not dialled for so long (our guess: a bug does not go away in seconds).
const RESERVED_PENANCE: Duration = Duration::from_secs(60);
/// Peers that left and whose group of addresses is still known when a late complaint comes (our guess).
const DEPARTED: usize = 256;
/// Peers remembered on disk: all that our dials reached have a place in `tried`, hearsay fills the rest (our guess).
const REMEMBERED: usize = 1024;
/// Peers to whom we were connected longest, dialled first after a restart (Bitcoin Core, `MAX_BLOCK_RELAY_ONLY_ANCHORS`).
const ANCHORS: usize = 2;
/// A peer that gave a sign of life so recently is alive (our guess: a heartbeat is due after 30 s of silence).
const ALIVE: Duration = Duration::from_secs(45);
/// Two connections of one peer that stand so close together were begun at the same time by both sides (our guess: a dial and
/// a handshake).
const SIMULTANEOUS: Duration = Duration::from_secs(10);

/// The machine. See the module's documentation.
pub struct PeerManager {
    config: PeerManagerConfig,
    dice: SeededRng,
    order: KeyedState,
    /// How often somebody to dial was drawn from the book.
    draws: u64,
    book: Book,
    reserved: BTreeSet<NodeId>,
    trusted: BTreeSet<NodeId>,
    anchors: BTreeSet<NodeId>,
    conduct: Conduct,
    dials: BTreeMap<SocketAddr, Dial>,
    /// Who is wanted at once while all dials are taken, and until when that is of use.
    waiting: VecDeque<(Timestamp, NodeId)>,
    peers: BTreeMap<NodeId, Peer>,
    links: BTreeMap<LinkId, NodeId>,
    /// Who left last, and which group of addresses answers for them.
    departed: VecDeque<(NodeId, Option<Group>)>,
    timers: Timers<Timer>,
    actions: VecDeque<Action<Self>>,
}

impl PeerManager {
    /// A manager that begins to dial at its first timeout, which is due at once.
    pub fn new(mut config: PeerManagerConfig, seed: &Seed) -> Self {
        let book_key = config.book_key.as_ref().unwrap_or(seed).hasher("peer-book");
        let mut book = Book::new(book_key, config.addresses);
        let (lines, reserved) = (core::mem::take(&mut config.remembered), core::mem::take(&mut config.reserved));
        for KnownPeer { peer, addrs } in &config.seeds {
            book.configure(*peer, addrs.clone());
        }
        let (first, later): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.tried);
        for line in first.into_iter().chain(later).filter(|line| line.known.peer != config.local) {
            book.restore(UnixMillis(0), line);
        }
        let mut timers = Timers::new();
        timers.set(Timer::Maintain, Timestamp::ZERO);
        timers.set(Timer::Feel, Self::first_feeler());
        let mut manager = Self {
            dice: seed.stream("peer-manager"),
            order: seed.hasher("peer-manager"),
            draws: 0,
            book,
            reserved: BTreeSet::new(),
            trusted: core::mem::take(&mut config.trusted).into_iter().collect(),
            anchors: lines.iter().filter(|line| line.anchor).map(|line| line.known.peer).take(ANCHORS).collect(),
            conduct: Conduct::new(&config.bans),
            config,
            dials: BTreeMap::new(),
            waiting: VecDeque::new(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            departed: VecDeque::new(),
            timers,
            actions: VecDeque::new(),
        };
        for known in reserved {
            manager.reserve(UnixMillis(0), known);
        }
        manager
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

    /// How many of them we know from hearsay, and how many a dial of ours reached.
    pub fn book_sizes(&self) -> (usize, usize) {
        self.book.sizes()
    }

    /// A peer gave a sign of life: to be called for each message, so that a copy of its key is told from its return.
    pub fn alive(&mut self, now: Now, peer: &NodeId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.heard = now.mono;
        }
    }

    fn link_up(&mut self, now: Now, link: LinkId, info: LinkInfo) {
        let peer = info.peer;
        let dialled = self.dial_over(&info);
        if peer == self.config.local {
            return self.turn_away(now, link, &info, CloseReason::SelfConnection);
        }
        let privileged = self.is_privileged(&peer);
        if self.is_denied(&peer, Some(info.remote)) {
            return self.turn_away(now, link, &info, CloseReason::Denied);
        }
        if !privileged && self.is_banned(now, &info) {
            return self.turn_away(now, link, &info, CloseReason::Banned);
        }
        let mut returns = false;
        if let Some(old) = self.peers.get(&peer) {
            if self.is_elsewhere(now, old, &info) {
                let (kept, refused) = (old.info.remote, info.remote);
                self.actions.push_back(Action::Emit(PeerEvent::TwoHosts { peer, kept, refused }));
                return self.close(link, CloseReason::Duplicate);
            }
            if !self.prefers_new(&old.info, &info) {
                return self.close(link, CloseReason::Duplicate);
            }
            let old = old.link;
            returns = true;
            // First the old, then the new: everybody hears that what was under way may be lost.
            self.forget_link(now, old);
            self.close(old, CloseReason::Duplicate);
        }
        if dialled == Some(Purpose::Feel) && !returns && !privileged {
            self.remember_good(now, &info);
            return self.close(link, CloseReason::Surplus);
        }
        let transient = dialled == Some(Purpose::Now) && !self.is_reserved(&peer) && self.is_passing(&info);
        if !privileged && !self.make_room(now, &info, transient) {
            return self.turn_away(now, link, &info, CloseReason::TooManyPeers);
        }
        self.remember_good(now, &info);
        self.links.insert(link, peer);
        let (since, wanted, heard) = (now.mono, now.mono, now.mono);
        self.peers.insert(peer, Peer { info, since, stats: None, link, transient, wanted, heard, useful: None });
        self.actions.push_back(Action::Link(Outlet::Admit(link)));
    }

    /// Whether a second connection of a peer comes from another host although its first one is alive. Who has a copy of a key
    /// must not be able to cut off whoever works with it.
    fn is_elsewhere(&self, now: Now, old: &Peer, new: &LinkInfo) -> bool {
        let hosts = [old.info.remote, new.remote].map(|addr| addr.ip().to_canonical());
        let on_one_machine = self.config.addresses == AddressPolicy::Loopback && hosts.iter().all(IpAddr::is_loopback);
        let by_both = old.info.outbound && now.mono.since(old.since) < SIMULTANEOUS;
        !new.outbound && hosts[0] != hosts[1] && !on_one_machine && !by_both && now.mono.since(old.heard) < ALIVE
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

    fn remember_good(&mut self, now: Now, info: &LinkInfo) {
        let policy = self.config.addresses;
        let claimed = info.listen.iter().map(|listen| address::reachable(*listen, info.remote));
        let claimed: Vec<_> = claimed.filter(|addr| policy.allows(*addr)).collect();
        let entry = self.book.hear(now.wall, info.peer, claimed, Some(info.remote.ip()));
        entry.not_before = now.mono;
        entry.dial_key = info.dial_key.or(entry.dial_key);
        if info.outbound {
            self.book.reached(now.wall, info.peer, info.remote);
        }
        self.remember_soon(now);
    }

    fn remember_soon(&mut self, now: Now) {
        if self.timers.deadline(&Timer::Remember).is_none() {
            let small = self.book.iter().nth(SMALL_BOOK).is_none();
            let after = if small { REMEMBER_AFTER } else { REMEMBER_AFTER_LARGE };
            self.timers.set(Timer::Remember, now.mono + after);
        }
    }

    fn forget_link(&mut self, now: Now, link: LinkId) {
        let Some(peer) = self.links.remove(&link) else { return };
        let (mut lasted, mut outbound) = (false, false);
        if let Some(gone) = self.peers.remove(&peer) {
            (lasted, outbound) = (now.mono.since(gone.since) >= LASTING, gone.info.outbound);
            self.departed.push_back((peer, self.group_of(&gone.info)));
            if self.departed.len() > DEPARTED {
                self.departed.pop_front();
            }
        }
        if let Some(entry) = self.book.get_mut(&peer) {
            if lasted {
                entry.failures = 0;
            }
            // It may be restarting: not at once again. A visit of its own that was short says nothing about it.
            if lasted || !outbound {
                entry.rest(now.mono, &mut self.dice);
            } else {
                entry.dial_failed(now.mono, &mut self.dice);
            }
        }
    }

    fn tell_remembered(&mut self) {
        let stays = |peer: &&Peer| peer.info.outbound && !peer.transient && !self.is_reserved(&peer.info.peer);
        let mut standing: Vec<_> = self.peers.values().filter(stays).collect();
        standing.sort_by_key(|peer| (peer.since, peer.link));
        // Those from before a restart stay anchors until there are others: it may take a while to be connected again.
        let before = self.anchors.iter().copied().filter(|id| standing.iter().all(|peer| peer.info.peer != *id));
        let anchors: Vec<_> = standing.iter().map(|peer| peer.info.peer).chain(before).take(ANCHORS).collect();
        self.anchors = anchors.into_iter().collect();
        let mut lines = self.book.lines(REMEMBERED, |peer| self.order.hash_one(peer));
        for line in &mut lines {
            line.anchor = self.anchors.contains(&line.known.peer);
        }
        self.actions.push_back(Action::Emit(PeerEvent::Remember(lines)));
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
        let privileged = self.is_privileged(&peer);
        if privileged {
            self.conduct.pardon(&Subject::Peer(peer));
        }
        self.end(now, &peer, if privileged { CloseReason::Misbehaviour } else { CloseReason::Banned });
        if let Some(entry) = self.book.get_mut(&peer).filter(|_| privileged) {
            entry.not_before = now.mono + RESERVED_PENANCE;
        }
    }

    fn is_reserved(&self, peer: &NodeId) -> bool {
        self.reserved.contains(peer)
    }

    /// Whether the operator lets a peer in whatever the limits are.
    fn is_privileged(&self, peer: &NodeId) -> bool {
        self.reserved.contains(peer) || self.trusted.contains(peer)
    }

    /// Whether the operator's lists keep a peer out.
    fn is_denied(&self, peer: &NodeId, addr: Option<SocketAddr>) -> bool {
        let PeerManagerConfig { allow, deny, .. } = &self.config;
        let names = |rules: &[Rule]| rules.iter().any(|rule| rule.names(peer, addr));
        names(deny) || !allow.is_empty() && !self.is_privileged(peer) && !names(allow)
    }

    fn reserve(&mut self, wall: UnixMillis, known: KnownPeer) {
        if known.peer != self.config.local {
            self.book.configure(known.peer, known.addrs);
            self.book.hear(wall, known.peer, [], None).reserved = true;
            self.reserved.insert(known.peer);
        }
    }

    /// Sends away whom the lists or a ban of the operator concern by now.
    fn review(&mut self, now: Now) {
        let wrong = |peer: &Peer| {
            let info = &peer.info;
            if self.is_denied(&info.peer, Some(info.remote)) {
                return Some((info.peer, CloseReason::Denied));
            }
            let banned = !self.is_privileged(&info.peer) && self.is_banned(now, info);
            banned.then_some((info.peer, CloseReason::Banned))
        };
        let wrong: Vec<_> = self.peers.values().filter_map(wrong).collect();
        for (peer, reason) in wrong {
            self.end(now, &peer, reason);
        }
    }

    fn order(&mut self, now: Now, command: PeerCommand) {
        match command {
            PeerCommand::Want(want) => self.want(now, want),
            PeerCommand::Report { peer, fault } => self.report(now, peer, fault),
            PeerCommand::Disconnect { peer, reason } => self.end(now, &peer, reason),
            PeerCommand::Limits(PeerLimits { target_outbound, max_peers, outbound_per_group }) => {
                self.config.target_outbound = target_outbound;
                self.config.max_peers = max_peers;
                self.config.outbound_per_group = outbound_per_group;
            }
            PeerCommand::Ban { subject, lasting } => {
                self.conduct.ban_for(now.wall, subject, lasting);
                self.review(now);
                self.actions.push_back(Action::Emit(PeerEvent::Bans(self.conduct.bans())));
            }
            PeerCommand::Unban(subject) => {
                self.conduct.pardon(&subject);
                self.actions.push_back(Action::Emit(PeerEvent::Bans(self.conduct.bans())));
            }
            PeerCommand::Allow(rules) => {
                self.config.allow = rules;
                self.review(now);
            }
            PeerCommand::Deny(rules) => {
                self.config.deny = rules;
                self.review(now);
            }
            PeerCommand::Reserve(known) => self.reserve(now.wall, known),
            PeerCommand::Release(peer) => {
                self.reserved.remove(&peer);
                let seed = self.config.seeds.iter().find(|seed| seed.peer == peer);
                self.book.configure(peer, seed.map_or(Vec::new(), |seed| seed.addrs.clone()));
                if let Some(entry) = self.book.get_mut(&peer) {
                    entry.reserved = false;
                }
            }
            PeerCommand::Trust(peer, true) => drop(self.trusted.insert(peer)),
            PeerCommand::Trust(peer, false) => drop(self.trusted.remove(&peer)),
        }
    }

    /// The address of a peer that is connected.
    fn ip_of(&self, peer: &NodeId) -> Option<IpAddr> {
        self.peers.get(peer).map(|peer| peer.info.remote.ip())
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
        let known = info.outbound || self.book.get(&info.peer).is_some_and(Entry::is_tried);
        banned(Subject::Peer(info.peer)) || !known && self.group_of(info).map(Subject::Group).is_some_and(banned)
    }

    /// Turns a link away that was never admitted; if we dialled it, not at once again.
    fn turn_away(&mut self, now: Now, link: LinkId, info: &LinkInfo, reason: CloseReason) {
        if let Some(entry) = self.book.get_mut(&info.peer).filter(|_| info.outbound) {
            entry.dial_failed(now.mono, &mut self.dice);
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
            NetworkEvent::LinkDown { link, .. } => self.forget_link(now, link),
            NetworkEvent::DialFailed { addr, closed, .. } => self.dial_failed(now, addr, closed),
            NetworkEvent::PeerStats { peer, stats } => {
                self.alive(now, &peer);
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.stats = Some(stats);
                }
            }
            NetworkEvent::Heartbeat { peer, .. } => self.alive(now, &peer),
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Now, command: PeerCommand) {
        self.order(now, command);
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            match timer {
                Timer::Maintain => self.maintain(now),
                Timer::Feel => self.feel(now),
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
