//! The peer manager: the only protocol that dials, admits and disconnects.
//!
//! Others say whom they want ([`Want`](peerage_core::Want)) and who misbehaved ([`Fault`]); it decides. It keeps a target
//! number of outbound connections, each in another group of addresses, backs off from addresses that fail, comes back to
//! reserved peers and to those that were good before, makes room in a full node, tries out whom it knows from hearsay, and
//! settles which of two connections to the same peer stays. The operator's word ([`PeerCommand`]) may change while it runs.
//!
//! The pool follows the load: it keeps `target_outbound` connections when nobody wants more, opens others as they are wanted
//! ([`Want::Now`](peerage_core::Want::Now)), up to `max_peers` and a few guests, and ends them when they have not been wanted
//! for `idle_timeout`. A wish that finds all dials taken waits for `acquire_timeout`; one that cannot be granted is answered
//! ([`PeerEvent::Unmet`]), at the latest when the connection that was opened for it finds no place.
//!
//! # What whoever runs it must do
//! A [`Managed`](crate::proto::managed::Managed) stack does all of this.
//!
//! - Each [`Outlet::Dial`] ends in exactly one `LinkUp` or `DialFailed`, with the same socket address. One whose end nobody
//!   tells is given up after a minute.
//! - Each `LinkUp` is answered by exactly one [`Outlet::Admit`] or [`Outlet::Close`], and is followed by one `LinkDown`, also
//!   if the manager closed it.
//! - Messages, requests, responses, round trips and heartbeats of a peer are signs of life: they are told to
//!   [`handle_network`](Protocol::handle_network), or to [`PeerManager::alive`] by whoever must pass them on.
//! - [`PeerEvent::Remember`] and [`PeerEvent::Bans`] replace what was told before, and come back in the
//!   [`PeerManagerConfig`] after a restart, with the same `book_key`. Before an orderly stop the manager is asked to tell the
//!   book once more ([`PeerCommand::Remember`]).
//! - Time begins at [`Timestamp::ZERO`] when it is made, and does not go back; the wall clock may.
//!
//! # Links
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
mod drawing;
mod eviction;
mod lists;
mod pressure;
mod rations;
mod remembering;
mod slots;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod why_not;

use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
pub use peerage_core::Unmet;
use peerage_core::{
    Action, CloseReason, Done, Doors, Fault, JobId, KeyedState, LinkId, LinkInfo, LinkStats, Message, NetworkEvent,
    NoJob, NodeId, Now, Outlet, Protocol, Seed, SeededRng, Timers, Timestamp, UnixMillis,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::proto::{admission::Group, shedder::Shedder};
pub use address::AddressPolicy;
use book::Book;
use conduct::Conduct;
pub use conduct::{Ban, ParseSubjectError, Subject, TooManyBans};
pub use config::{BookLine, KnownPeer, PeerCommand, PeerEvent, PeerLimits, PeerManagerConfig};
use dialling::{Dial, Purpose};
use lists::Rules;
pub use lists::{Net, ParseRuleError, Ranges, Rule};
use rations::Rations;
use remembering::{ANCHORS, LASTING};
pub use view::Standing;
pub use why_not::WhyNot;

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
    /// Whether it has a floor in the budget: everybody but guests.
    seated: bool,
    /// Connected because somebody wanted it just then: the first to go when there are enough.
    transient: bool,
    /// When somebody wanted it last.
    wanted: Timestamp,
    /// When it last gave a sign of life.
    heard: Timestamp,
    /// When it last delivered something that nobody had delivered before.
    useful: Option<Timestamp>,
}

impl Peer {
    /// Whether we opened this connection, for it to stay.
    const fn is_kept(&self) -> bool {
        self.info.outbound && !self.transient
    }
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

/// A reserved peer that misbehaved is not dialled for so long (our guess: a bug does not go away in seconds).
const RESERVED_PENANCE: Duration = Duration::from_secs(60);
/// Peers that left and whose group of addresses is still known when a late complaint comes (our guess).
const DEPARTED: usize = 256;
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
    /// How often somebody to keep was drawn from the book.
    draws: u64,
    /// How often somebody was to be tried out.
    trials: u64,
    book: Book,
    /// Whom the operator wants to be connected to; with what was said about it if one cannot be dialled.
    reserved: BTreeMap<NodeId, Option<Unmet>>,
    trusted: BTreeSet<NodeId>,
    allow: Rules,
    deny: Rules,
    anchors: BTreeSet<NodeId>,
    conduct: Conduct,
    shedder: Shedder,
    dials: BTreeMap<SocketAddr, Dial>,
    /// Hosts of those whom the operator named, where dials for a wish ended since whom to keep was looked at last.
    freed: BTreeSet<IpAddr>,
    rations: Rations,
    /// Who is wanted at once while all dials are taken, until when that is of use, and what is to be asked.
    waiting: VecDeque<(Timestamp, NodeId, Option<Message>)>,
    peers: BTreeMap<NodeId, Peer>,
    links: BTreeMap<LinkId, NodeId>,
    /// Who left last, and which group of addresses answers for them.
    departed: VecDeque<(NodeId, Option<Group>)>,
    timers: Timers<Timer>,
    /// The doors as they were told last, and for how many peers there are to be floors.
    doors: Doors,
    seats: usize,
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
        let seats = config.max_peers;
        let mut manager = Self {
            dice: seed.stream("peer-manager"),
            order: seed.hasher("peer-manager"),
            draws: 0,
            trials: 0,
            book,
            reserved: BTreeMap::new(),
            trusted: core::mem::take(&mut config.trusted).into_iter().collect(),
            allow: Rules::new(core::mem::take(&mut config.allow)),
            deny: Rules::new(core::mem::take(&mut config.deny)),
            anchors: lines.iter().filter(|line| line.anchor).map(|line| line.known.peer).take(ANCHORS).collect(),
            conduct: Conduct::new(&config.bans),
            shedder: Shedder::default(),
            config,
            dials: BTreeMap::new(),
            freed: BTreeSet::new(),
            rations: Rations::default(),
            waiting: VecDeque::new(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            departed: VecDeque::new(),
            timers,
            doors: Doors::default(),
            seats,
            actions: VecDeque::new(),
        };
        for known in reserved {
            manager.reserve(UnixMillis(0), known);
        }
        manager.tell_doors();
        manager
    }

    /// A peer gave a sign of life: for whoever must pass its messages on. By it a copy of its key is told from its return.
    pub fn alive(&mut self, now: Now, peer: &NodeId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.heard = now.mono;
        }
    }

    /// Why the operator's lists or a ban keep this node out when it comes from here, if they do.
    pub(super) fn keeps_out(&self, now: Now, peer: &NodeId, remote: SocketAddr) -> Option<CloseReason> {
        if self.is_denied(peer, Some(remote)) {
            return Some(CloseReason::Denied);
        }
        self.is_banned(now, peer, remote).then_some(CloseReason::Banned)
    }

    fn link_up(&mut self, now: Now, link: LinkId, info: LinkInfo) {
        let peer = info.peer;
        let dialled = self.dial_over(now, &info);
        if peer == self.config.local {
            return self.close(link, CloseReason::SelfConnection);
        }
        let (purpose, wanted) = (dialled.map(|dial| dial.purpose), dialled.is_some_and(|dial| dial.wanted));
        let privileged = self.is_privileged(&peer);
        if let Some(reason) = self.keeps_out(now, &peer, info.remote) {
            return self.turn_away(now, link, &info, wanted, reason);
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
            self.forget_link(now, old, true);
            self.close(old, CloseReason::Duplicate);
        }
        if purpose == Some(Purpose::Feel) && !returns && !privileged {
            self.remember_good(now, &info, purpose);
            return self.close(link, CloseReason::Surplus);
        }
        let transient = purpose == Some(Purpose::Now) && !self.is_reserved(&peer);
        if !privileged && !self.make_room(now, &info, transient) {
            return self.turn_away(now, link, &info, wanted, CloseReason::TooManyPeers);
        }
        self.remember_good(now, &info, purpose);
        self.links.insert(link, peer);
        let (since, wanted, heard) = (now.mono, now.mono, now.mono);
        let seated = self.may_sit(&peer, info.outbound);
        self.peers
            .insert(peer, Peer { info, since, stats: None, link, seated, transient, wanted, heard, useful: None });
        self.tell_seats();
        self.actions.push_back(Action::Link(if seated { Outlet::Admit(link) } else { Outlet::AdmitGuest(link) }));
    }

    /// Whether a second connection of a peer comes from another host although its first one is alive. Who has a copy of a key
    /// must not be able to cut off whoever works with it.
    fn is_elsewhere(&self, now: Now, old: &Peer, new: &LinkInfo) -> bool {
        let hosts = [old.info.remote, new.remote].map(|addr| addr.ip().to_canonical());
        let on_one_machine = self.config.addresses == AddressPolicy::Loopback && hosts.iter().all(IpAddr::is_loopback);
        let by_both = old.info.outbound && now.mono.since(old.since) < SIMULTANEOUS;
        // Where the operator says that it is, or where we reached it, it is itself; whoever has a copy of its key came first.
        let at_home = hosts.map(|host| self.book.is_at_home(&new.peer, host));
        let returns_home = at_home == [false, true];
        let alive = now.mono.since(old.heard) < ALIVE;
        !new.outbound && hosts[0] != hosts[1] && !on_one_machine && !by_both && !returns_home && alive
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

    /// A connection is over; `by_us` if that was our wish and no fault of the peer's.
    fn forget_link(&mut self, now: Now, link: LinkId, by_us: bool) {
        let Some(peer) = self.links.remove(&link) else { return };
        let Some(gone) = self.peers.remove(&peer) else { return };
        self.departed.push_back((peer, self.group_of(gone.info.remote)));
        if self.departed.len() > DEPARTED {
            self.departed.pop_front();
        }
        if self.shedder.is_fugitive(link) && !self.is_privileged(&peer) {
            self.report(now, peer, Fault::KeptMemory);
        }
        let lasted = now.mono.since(gone.since) >= LASTING;
        let Some(entry) = self.book.get_mut(&peer) else { return };
        if lasted && gone.is_kept() {
            entry.vouch(now.wall);
        }
        if lasted {
            entry.failures = 0;
        }
        // It may be restarting: not at once again.
        if lasted || by_us || !gone.info.outbound {
            entry.rest(now.mono, &mut self.dice);
        } else {
            entry.failed(now.mono, &mut self.dice);
        }
        self.remember_later(now);
    }

    /// Books a fault, also of a peer that is gone by now: verdicts come late, and hanging up must not be a way out.
    fn report(&mut self, now: Now, peer: NodeId, fault: Fault) {
        let group = match self.peers.get(&peer) {
            Some(known) => self.group_of(known.info.remote),
            None => self.departed.iter().rev().find(|(departed, _)| *departed == peer).and_then(|(_, group)| *group),
        };
        let banned = self.conduct.book(now.mono, now.wall, peer, group, fault);
        self.actions.push_back(Action::Emit(PeerEvent::Fault { peer, fault }));
        if banned.is_empty() {
            return;
        }
        for subject in &banned {
            // The operator's own choice is sent away and not banned.
            if *subject != Subject::Peer(peer) || !self.is_privileged(&peer) {
                self.tell_banned(now, *subject, false);
            }
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
        self.reserved.contains_key(peer)
    }

    /// Whether the operator lets a peer in whatever the limits are.
    fn is_privileged(&self, peer: &NodeId) -> bool {
        self.is_reserved(peer) || self.trusted.contains(peer)
    }

    /// Whether the operator's lists keep a peer out.
    fn is_denied(&self, peer: &NodeId, addr: Option<SocketAddr>) -> bool {
        let strangers_out = || !self.allow.lines().is_empty() && !self.is_privileged(peer);
        self.deny.names(peer, addr) || strangers_out() && !self.allow.names(peer, addr)
    }

    fn reserve(&mut self, wall: UnixMillis, known: KnownPeer) {
        if known.peer != self.config.local {
            self.book.configure(known.peer, known.addrs);
            self.book.hear(wall, known.peer, [], None).reserved = true;
            self.reserved.entry(known.peer).or_default();
            if let Some(peer) = self.peers.get_mut(&known.peer) {
                peer.transient = false;
            }
        }
    }

    /// Whoever is reserved stays where the operator says that it is as such.
    fn set_seeds(&mut self, seeds: Vec<KnownPeer>) {
        let before = core::mem::replace(&mut self.config.seeds, seeds);
        let gone = before.into_iter().map(|seed| KnownPeer { addrs: Vec::new(), ..seed });
        for KnownPeer { peer, addrs } in gone.chain(self.config.seeds.iter().cloned()) {
            if !self.is_reserved(&peer) {
                self.book.configure(peer, addrs);
            }
        }
    }

    /// Sends away whom the lists or a ban of the operator concern by now.
    fn review(&mut self, now: Now) {
        let wrong = |peer: &Peer| {
            let info = &peer.info;
            if self.is_denied(&info.peer, Some(info.remote)) {
                return Some((info.peer, CloseReason::Denied));
            }
            let banned = self.is_banned(now, &info.peer, info.remote);
            banned.then_some((info.peer, CloseReason::Banned))
        };
        let wrong: Vec<_> = self.peers.values().filter_map(wrong).collect();
        for (peer, reason) in wrong {
            self.end(now, &peer, reason);
        }
    }

    fn tell_banned(&mut self, now: Now, subject: Subject, by_hand: bool) {
        if let Some(until) = self.conduct.banned(now.wall, &subject) {
            self.actions.push_back(Action::Emit(PeerEvent::Banned { subject, until, by_hand }));
        }
    }

    /// Tells who may open a stream at all, if that is not what it was: as far as an address alone decides it.
    fn tell_doors(&mut self) {
        let (allow, deny) = (self.allow.lines(), self.deny.lines());
        let ranges = |rules: &[Rule]| rules.iter().filter_map(Rule::net).map(|net| net.parts()).collect::<Vec<_>>();
        // Whoever comes from anywhere may be one of those who are let in by their names.
        let by_name =
            allow.iter().any(|rule| rule.net().is_none()) || !self.reserved.is_empty() || !self.trusted.is_empty();
        let open = (!allow.is_empty() && !by_name).then(|| ranges(allow));
        let doors = Doors { shut: ranges(deny), open };
        if self.doors != doors {
            self.doors = doors.clone();
            self.actions.push_back(Action::Link(Outlet::Doors(doors)));
        }
    }

    fn order(&mut self, now: Now, command: PeerCommand) {
        use PeerCommand::{Allow, Deny, Release, Reserve, Trust};
        // Others come with each message of a peer, and lists are long.
        let turns_a_door = matches!(command, Allow(_) | Deny(_) | Reserve(_) | Release(_) | Trust(..));
        self.obey(now, command);
        if turns_a_door {
            self.tell_doors();
        }
        self.tell_seats();
    }

    fn obey(&mut self, now: Now, command: PeerCommand) {
        match command {
            PeerCommand::Want(want) => self.want(now, want),
            PeerCommand::Report { peer, fault } => self.report(now, peer, fault),
            PeerCommand::Disconnect { peer, reason } => self.end(now, &peer, reason),
            PeerCommand::Limits(limits) => {
                self.config.target_outbound = limits.target_outbound;
                self.config.max_peers = limits.max_peers;
                self.config.outbound_per_group = limits.outbound_per_group;
                self.config.acquire_timeout = limits.acquire_timeout;
                self.config.idle_timeout = limits.idle_timeout;
            }
            PeerCommand::Ban { subject, lasting } => {
                if let Err(why) = self.conduct.ban_for(now.wall, subject, lasting) {
                    return self.actions.push_back(Action::Emit(PeerEvent::BanRefused { subject, why }));
                }
                self.tell_banned(now, subject, true);
                self.review(now);
                self.actions.push_back(Action::Emit(PeerEvent::Bans(self.conduct.bans())));
            }
            PeerCommand::Unban(subject) => {
                if self.conduct.pardon(&subject) {
                    self.actions.push_back(Action::Emit(PeerEvent::Unbanned { subject }));
                    self.actions.push_back(Action::Emit(PeerEvent::Bans(self.conduct.bans())));
                }
            }
            PeerCommand::Allow(rules) => {
                self.allow = Rules::new(rules);
                self.review(now);
            }
            PeerCommand::Deny(rules) => {
                self.deny = Rules::new(rules);
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
                self.review(now);
            }
            PeerCommand::Trust(peer, true) => drop(self.trusted.insert(peer)),
            PeerCommand::Trust(peer, false) => {
                self.trusted.remove(&peer);
                self.review(now);
            }
            PeerCommand::Seeds(seeds) => self.set_seeds(seeds),
            PeerCommand::Remember => self.tell_remembered(now),
        }
    }

    /// The address of a peer that is connected.
    fn ip_of(&self, peer: &NodeId) -> Option<IpAddr> {
        self.peers.get(peer).map(|peer| peer.info.remote.ip())
    }

    /// The group of addresses that answers for whoever is at this one, if any does.
    fn group_of(&self, addr: SocketAddr) -> Option<Group> {
        (!self.is_on_this_machine(addr)).then(|| Group::of(addr.ip()))
    }

    /// Whether this is one of many nodes on this machine: then its host says nothing.
    fn is_on_this_machine(&self, addr: SocketAddr) -> bool {
        self.config.addresses == AddressPolicy::Loopback && addr.ip().to_canonical().is_loopback()
    }

    /// Whether a peer is banned at this address: by itself, or with its group. A group's ban never concerns one with whom a
    /// connection of our choice lasted; else a neighbour could have an honest node cut off.
    fn is_banned(&self, now: Now, peer: &NodeId, addr: SocketAddr) -> bool {
        let banned = |subject| self.conduct.banned(now.wall, &subject).is_some();
        let with_its_group = || self.group_of(addr).map(Subject::Group).is_some_and(banned);
        let known = || self.book.get(peer).is_some_and(|entry| entry.stayed);
        !self.is_privileged(peer) && (banned(Subject::Peer(*peer)) || with_its_group() && !known())
    }

    /// Turns a link away that was never admitted; if we dialled it, not at once again, and whoever waits for it hears of it.
    fn turn_away(&mut self, now: Now, link: LinkId, info: &LinkInfo, wanted: bool, reason: CloseReason) {
        if let Some(entry) = self.book.get_mut(&info.peer).filter(|_| info.outbound) {
            entry.failed(now.mono, &mut self.dice);
        }
        self.close(link, reason);
        if wanted {
            self.unmet(info.peer, Unmet::TurnedAway(reason));
        }
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
            NetworkEvent::LinkDown { link, .. } => {
                self.forget_link(now, link, false);
                self.tell_seats();
            }
            NetworkEvent::DialFailed { addr, closed, .. } => self.dial_failed(now, addr, closed),
            NetworkEvent::PeerStats { peer, stats } => {
                self.alive(now, &peer);
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.stats = Some(stats);
                }
            }
            NetworkEvent::Message { peer, .. }
            | NetworkEvent::Request { peer, .. }
            | NetworkEvent::Response { peer, result: Ok(_), .. }
            | NetworkEvent::Heartbeat { peer, .. } => self.alive(now, &peer),
            NetworkEvent::Pressure(pressure) => self.relieve(now, &pressure),
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Now, command: PeerCommand) {
        self.order(now, command);
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            match timer {
                Timer::Maintain => {
                    self.maintain(now);
                    self.tell_seats();
                }
                Timer::Feel => self.feel(now),
                Timer::Remember => self.tell_remembered(now),
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
