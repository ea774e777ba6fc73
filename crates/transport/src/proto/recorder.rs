//! The flight recorder: what happened between this node and each peer, kept beyond the connection, so that "why?" has an
//! answer when somebody asks later.
//!
//! It decides nothing. [`Managed`](super::managed::Managed) lets it see what the peer manager hears and what it does.

use core::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use peerage_core::{
    Action, CloseReason, Closed, ClosedBy, Command, DropReason, Fault, LinkId, LinkInfo, NetworkEvent, NodeId, Now,
    Outlet, Timestamp, UnixMillis,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::peer_manager::{PeerEvent, PeerManager, Subject, Unmet};

/// Happenings kept for each peer (our guess: a bad hour of one that comes and goes).
pub const EVENTS: usize = 64;
/// Peers that are kept; beyond that the one of which nothing was heard for longest is forgotten: first those who were only
/// turned away or not reached, last those who are connected, so that new keys do not wash away what somebody did. Our
/// guess: a night of strangers at one a minute, and 3 MiB at most.
pub const PEERS: usize = 512;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// We dialled it.
    Dialled {
        /// Where.
        addr: SocketAddr,
    },
    /// That led to nothing.
    DialFailed {
        /// Where.
        addr: SocketAddr,
        /// Why.
        closed: Closed,
    },
    /// It proved itself and is a peer.
    Admitted {
        /// Where it is.
        addr: SocketAddr,
        /// Whether we dialled it.
        outbound: bool,
    },
    /// It proved itself, and the connection ended before it counted.
    Refused {
        /// Where it is.
        addr: SocketAddr,
        /// How.
        closed: Closed,
    },
    /// A message to it was dropped.
    Dropped {
        /// Which kind of message.
        command: Command,
        /// Why.
        reason: DropReason,
    },
    /// It broke a rule of a layer above.
    Faulted {
        /// Which.
        fault: Fault,
    },
    /// It broke so many that it is banned by its identity, or the operator banned it; bans of groups of addresses are not noted
    /// here.
    Banned {
        /// For how long from then on.
        for_how_long: Duration,
        /// Whether the operator did.
        by_hand: bool,
    },
    /// The operator lifted its ban.
    Unbanned,
    /// All places were taken and it was the easiest to do without. Its connection ends for that.
    Evicted {
        /// Who came in its place; nobody in particular if it was a guest whose time was over.
        by: Option<NodeId>,
    },
    /// Somebody wanted it at once, and it was not dialled.
    Unmet {
        /// Why not.
        why: Unmet,
    },
    /// Its identity came from a second host while it was connected from a first one.
    TwoHosts {
        /// Where the connection that stays leads.
        kept: SocketAddr,
        /// From where the other one came.
        refused: SocketAddr,
    },
    /// A stream from the address where it was last was closed unread. It may have been somebody else's.
    TurnedAway {
        /// From which address.
        ip: IpAddr,
        /// Why.
        reason: CloseReason,
    },
    /// The connection ended.
    Ended {
        /// How.
        closed: Closed,
    },
}

impl Happening {
    /// A stable name for programs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Dialled { .. } => "dialled",
            Self::DialFailed { .. } => "dial_failed",
            Self::Admitted { .. } => "admitted",
            Self::Refused { .. } => "refused",
            Self::Dropped { .. } => "dropped",
            Self::Faulted { .. } => "faulted",
            Self::Banned { .. } => "banned",
            Self::Unbanned => "unbanned",
            Self::Evicted { .. } => "evicted",
            Self::Unmet { .. } => "unmet",
            Self::TwoHosts { .. } => "two_hosts",
            Self::TurnedAway { .. } => "turned_away",
            Self::Ended { .. } => "ended",
        }
    }

    /// The stable name of the reason, where there is one.
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Dialled { .. }
            | Self::Admitted { .. }
            | Self::Banned { .. }
            | Self::Unbanned
            | Self::Evicted { .. }
            | Self::TwoHosts { .. } => None,
            Self::Unmet { why } => Some(why.label()),
            Self::TurnedAway { reason, .. } => Some(reason.label()),
            Self::DialFailed { closed, .. } | Self::Refused { closed, .. } | Self::Ended { closed } => {
                Some(closed.reason.label())
            }
            Self::Dropped { reason, .. } => Some(reason.label()),
            Self::Faulted { fault } => Some(fault.label()),
        }
    }
}

impl fmt::Display for Happening {
    /// In words, for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled { addr } => write!(f, "dialled {addr}"),
            Self::DialFailed { addr, closed } => write!(f, "dialling {addr} led to nothing: {}", Words(*closed)),
            Self::Admitted { addr, outbound: true } => write!(f, "connected to {addr}"),
            Self::Admitted { addr, outbound: false } => write!(f, "connected from {addr}"),
            Self::Refused { addr, closed } => write!(f, "met at {addr} and not kept: {}", Words(*closed)),
            Self::Dropped { command, reason } => {
                write!(f, "a message to it was dropped, command {}: {} ({reason})", command.number(), reason.explain())
            }
            Self::Faulted { fault } => write!(f, "did wrong: {} ({fault})", fault.explain()),
            Self::Banned { for_how_long, by_hand } => {
                let by_whom = if *by_hand { " by the operator" } else { "" };
                write!(f, "banned{by_whom} for {} minutes", for_how_long.as_secs().div_ceil(60))
            }
            Self::Unbanned => f.write_str("its ban was lifted by the operator"),
            Self::Evicted { by: Some(by) } => write!(f, "had to make room for {by}"),
            Self::Evicted { by: None } => f.write_str("had to make room: all places were taken"),
            Self::Unmet { why } => write!(f, "was wanted and not dialled: {} ({})", why.explain(), why.label()),
            Self::TwoHosts { kept, refused } => {
                write!(f, "came from a second host, {refused}, while it was connected at {kept}; the first one stays")
            }
            Self::TurnedAway { ip, reason } => {
                write!(f, "a stream from its address {ip} was closed unread: {} ({reason})", reason.explain())
            }
            Self::Ended { closed } => write!(f, "disconnected: {}", Words(*closed)),
        }
    }
}

/// The end of a connection in words.
struct Words(Closed);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Closed { by, reason } = self.0;
        let who = match by {
            ClosedBy::Us => "this node ended it",
            ClosedBy::Them => "the other side ended it",
            ClosedBy::Network => "the network ended it",
        };
        write!(f, "{who}. {} ({reason})", reason.explain())
    }
}

/// A happening with its time; the same one several times in a row is one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it happened last, by this node's clock.
    pub at: UnixMillis,
    /// What.
    pub what: Happening,
    /// How often in a row.
    pub times: u32,
}

#[derive(Debug, Default)]
struct Flight {
    entries: VecDeque<Entry>,
    heard: Timestamp,
    standing: Standing,
    /// Where it was last.
    at: Option<IpAddr>,
}

/// Who is forgotten last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Turned away, or not reached.
    #[default]
    Stranger,
    /// Was a peer, or did wrong.
    Known,
    /// Is a peer.
    Connected,
}

/// What happened between this node and its peers, of a bounded number of them.
#[derive(Debug, Default)]
pub struct Recorder {
    flights: BTreeMap<NodeId, Flight>,
    /// Connections that stand, and whether they count.
    links: BTreeMap<LinkId, (LinkInfo, bool)>,
    /// Who is forgotten next.
    order: BTreeSet<(Standing, Timestamp, NodeId)>,
}

impl Recorder {
    /// The peer manager hears something.
    pub(super) fn hears(&mut self, now: Now, event: &NetworkEvent) {
        match event {
            NetworkEvent::LinkUp { link, info } => {
                self.links.insert(*link, (info.clone(), false));
            }
            NetworkEvent::LinkDown { link, closed } => {
                let Some((info, counts)) = self.links.remove(link) else { return };
                let closed = *closed;
                let refused = Happening::Refused { addr: info.remote, closed };
                self.note(now, info.peer, if counts { Happening::Ended { closed } } else { refused });
            }
            NetworkEvent::DialFailed { addr, expected: Some(peer), closed } => {
                self.note(now, *peer, Happening::DialFailed { addr: *addr, closed: *closed });
            }
            NetworkEvent::TurnedAway { remote, reason } => {
                let ip = remote.ip().to_canonical();
                let here = self.flights.iter().filter(|(_, flight)| flight.at == Some(ip)).map(|(peer, _)| *peer);
                for peer in here.collect::<Vec<_>>() {
                    self.note(now, peer, Happening::TurnedAway { ip, reason: *reason });
                }
            }
            NetworkEvent::Dropped { peer, command, reason } => {
                self.note(now, *peer, Happening::Dropped { command: *command, reason: *reason });
            }
            _ => {}
        }
    }

    /// The peer manager does something.
    pub(super) fn sees(&mut self, now: Now, action: &Action<PeerManager>) {
        match action {
            Action::Link(Outlet::Dial { addr, expected: Some(peer), .. }) => {
                self.note(now, *peer, Happening::Dialled { addr: *addr });
            }
            // Of two connections to one peer the old one ends before the new one counts, though it is heard later.
            Action::Link(Outlet::Close { link, reason: CloseReason::Duplicate }) => {
                if self.links.get(link).is_some_and(|(_, counts)| *counts)
                    && let Some((info, _)) = self.links.remove(link)
                {
                    self.note(now, info.peer, Happening::Ended { closed: Closed::by_us(CloseReason::Duplicate) });
                }
            }
            Action::Link(Outlet::Admit(link) | Outlet::AdmitGuest(link)) => {
                let Some((info, counts)) = self.links.get_mut(link) else { return };
                *counts = true;
                let (peer, addr, outbound) = (info.peer, info.remote, info.outbound);
                self.note(now, peer, Happening::Admitted { addr, outbound });
            }
            Action::Emit(event) => self.tells(now, event),
            _ => {}
        }
    }

    /// The peer manager says something.
    fn tells(&mut self, now: Now, event: &PeerEvent) {
        let (peer, what) = match *event {
            PeerEvent::Fault { peer, fault } => (peer, Happening::Faulted { fault }),
            PeerEvent::Banned { subject: Subject::Peer(peer), until, by_hand } => {
                (peer, Happening::Banned { for_how_long: until.since(now.wall), by_hand })
            }
            PeerEvent::Unbanned { subject: Subject::Peer(peer) } => (peer, Happening::Unbanned),
            PeerEvent::Evicted { peer, by } => (peer, Happening::Evicted { by }),
            PeerEvent::Unmet { peer, why } | PeerEvent::ReservedUndialled { peer, why } => {
                (peer, Happening::Unmet { why })
            }
            PeerEvent::TwoHosts { peer, kept, refused } => (peer, Happening::TwoHosts { kept, refused }),
            PeerEvent::Banned { subject: Subject::Group(_), .. }
            | PeerEvent::Unbanned { subject: Subject::Group(_) }
            | PeerEvent::Remember(_)
            | PeerEvent::BanRefused { .. }
            | PeerEvent::Bans(_) => return,
        };
        self.note(now, peer, what);
    }

    fn note(&mut self, now: Now, peer: NodeId, what: Happening) {
        let flight = self.flights.entry(peer).or_default();
        if let Happening::Dialled { addr } | Happening::Admitted { addr, .. } | Happening::Refused { addr, .. } = what {
            flight.at = Some(addr.ip().to_canonical());
        }
        self.order.remove(&(flight.standing, flight.heard, peer));
        flight.standing = match what {
            Happening::Admitted { .. } => Standing::Connected,
            Happening::Ended { .. } => Standing::Known,
            Happening::Faulted { .. } | Happening::Banned { .. } | Happening::TwoHosts { .. } => {
                flight.standing.max(Standing::Known)
            }
            _ => flight.standing,
        };
        flight.heard = now.mono;
        self.order.insert((flight.standing, now.mono, peer));
        match flight.entries.back_mut().filter(|last| last.what == what) {
            Some(last) => (last.at, last.times) = (now.wall, last.times.saturating_add(1)),
            None => {
                if flight.entries.len() == EVENTS {
                    flight.entries.pop_front();
                }
                flight.entries.push_back(Entry { at: now.wall, what, times: 1 });
            }
        }
        while self.flights.len() > PEERS {
            let Some((_, _, oldest)) = self.order.pop_first() else { break };
            self.flights.remove(&oldest);
        }
    }

    /// What is known of a peer, the oldest first; nothing if it was never met, or was forgotten.
    pub fn flight(&self, peer: &NodeId) -> impl Iterator<Item = &Entry> {
        self.flights.get(peer).into_iter().flat_map(|flight| &flight.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn addr() -> SocketAddr {
        ([11, 7, 0, 1], 4000).into()
    }

    fn note(recorder: &mut Recorder, at: u64, peer: u32, what: Happening) {
        recorder.note(Now { mono: Timestamp(at), wall: UnixMillis(at) }, id(peer), what);
    }

    #[test]
    fn the_same_in_a_row_is_one_entry_and_the_last_64_stay() {
        let mut recorder = Recorder::default();
        let fault = |fault| Happening::Faulted { fault };
        for at in 0..5 {
            note(&mut recorder, at, 1, fault(Fault::Excess));
        }
        let entries: Vec<_> = recorder.flight(&id(1)).copied().collect();
        assert_eq!(entries, [Entry { at: UnixMillis(4), what: fault(Fault::Excess), times: 5 }]);
        for at in 5..200 {
            let which = if at % 2 == 0 { Fault::Excess } else { Fault::InvalidItem };
            note(&mut recorder, at, 1, fault(which));
        }
        let entries: Vec<_> = recorder.flight(&id(1)).map(|entry| entry.at.0).collect();
        assert_eq!(entries, (136..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_crowd_of_strangers_is_forgotten_before_those_who_are_connected() {
        let mut recorder = Recorder::default();
        note(&mut recorder, 0, 0, Happening::Admitted { addr: addr(), outbound: true });
        note(&mut recorder, 1, 1, Happening::Faulted { fault: Fault::InvalidBlock });
        for stranger in 2..2 + PEERS as u32 {
            let refused = Happening::Refused { addr: addr(), closed: Closed::by_us(CloseReason::TooManyPeers) };
            note(&mut recorder, 3, stranger, refused);
        }
        assert_eq!(recorder.flights.len(), PEERS);
        assert_eq!(recorder.order.len(), PEERS);
        assert_eq!(recorder.flight(&id(0)).count(), 1, "still connected");
        assert_eq!(recorder.flight(&id(1)).count(), 1, "what it did is not washed away by new keys");
        for other in 2 + PEERS as u32..2 + 2 * PEERS as u32 {
            note(&mut recorder, 4, other, Happening::Faulted { fault: Fault::InvalidBlock });
        }
        assert_eq!(recorder.flights.len(), PEERS);
        assert_eq!([0, 1].map(|peer| recorder.flight(&id(peer)).count()), [1, 0], "others did as much since");
    }

    #[test]
    fn of_two_connections_to_a_peer_the_old_one_ends_before_the_new_one_counts() {
        let mut recorder = Recorder::default();
        let now = Now { mono: Timestamp(1), wall: UnixMillis(1) };
        let info =
            || LinkInfo { peer: id(1), outbound: false, remote: addr(), listen: vec![], features: 0, dial_key: None };
        let closed = Closed::by_us(CloseReason::Duplicate);
        recorder.hears(now, &NetworkEvent::LinkUp { link: LinkId(1), info: info() });
        recorder.sees(now, &Action::Link(Outlet::Admit(LinkId(1))));
        recorder.hears(now, &NetworkEvent::LinkUp { link: LinkId(2), info: info() });
        recorder.sees(now, &Action::Link(Outlet::Close { link: LinkId(1), reason: CloseReason::Duplicate }));
        recorder.sees(now, &Action::Link(Outlet::Admit(LinkId(2))));
        recorder.hears(now, &NetworkEvent::LinkDown { link: LinkId(1), closed });
        let admitted = Happening::Admitted { addr: addr(), outbound: false };
        let told: Vec<_> = recorder.flight(&id(1)).map(|entry| entry.what).collect();
        assert_eq!(told, [admitted, Happening::Ended { closed }, admitted]);
        assert_eq!(recorder.flights[&id(1)].standing, Standing::Connected);
    }

    #[test]
    fn a_stream_that_is_closed_unread_is_noted_for_whoever_was_at_its_address() {
        let mut recorder = Recorder::default();
        let now = Now { mono: Timestamp(1), wall: UnixMillis(1) };
        note(&mut recorder, 0, 1, Happening::Admitted { addr: addr(), outbound: false });
        note(&mut recorder, 0, 2, Happening::Dialled { addr: ([11, 7, 0, 2], 4000).into() });
        let reason = CloseReason::TooFast;
        for port in [1, 2, 3] {
            let remote = SocketAddr::new(addr().ip(), port);
            recorder.hears(now, &NetworkEvent::TurnedAway { remote, reason });
        }
        let last: Vec<_> = recorder.flight(&id(1)).skip(1).map(|entry| (entry.what, entry.times)).collect();
        assert_eq!(last, [(Happening::TurnedAway { ip: addr().ip(), reason }, 3)]);
        assert_eq!(recorder.flight(&id(2)).count(), 1, "it is elsewhere");
    }

    #[test]
    fn what_the_peer_manager_says_of_somebody_is_in_its_flight() {
        let mut recorder = Recorder::default();
        let now = Now { mono: Timestamp(1), wall: UnixMillis(1) };
        let (peer, subject) = (id(1), Subject::Peer(id(1)));
        let said = [
            PeerEvent::Evicted { peer, by: Some(id(2)) },
            PeerEvent::Unmet { peer, why: Unmet::Resting },
            PeerEvent::TwoHosts { peer, kept: addr(), refused: ([11, 9, 0, 1], 1).into() },
            PeerEvent::Banned { subject, until: UnixMillis(60_001), by_hand: true },
            PeerEvent::Unbanned { subject },
            PeerEvent::Bans(Vec::new()),
        ];
        said.into_iter().for_each(|event| recorder.sees(now, &Action::Emit(event)));
        let told: Vec<_> = recorder.flight(&peer).map(|entry| entry.what.to_string()).collect();
        assert_eq!(
            told,
            [
                format!("had to make room for {}", id(2)),
                "was wanted and not dialled: A dial failed just before; it rests. (resting)".into(),
                "came from a second host, 11.9.0.1:1, while it was connected at 11.7.0.1:4000; the first one stays"
                    .into(),
                "banned by the operator for 1 minutes".into(),
                "its ban was lifted by the operator".into(),
            ]
        );
    }

    #[test]
    fn it_reads_as_a_story() {
        let story = [
            Happening::Dialled { addr: addr() },
            Happening::Admitted { addr: addr(), outbound: true },
            Happening::Faulted { fault: Fault::InvalidItem },
            Happening::Ended { closed: Closed::by_us(CloseReason::Banned) },
        ];
        let told: Vec<_> = story.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "dialled 11.7.0.1:4000",
                "connected to 11.7.0.1:4000",
                "did wrong: An item that validation rejected. (invalid_item)",
                "disconnected: this node ended it. The peer is banned for now. (banned)",
            ]
        );
    }
}
