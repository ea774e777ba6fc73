//! The flight recorder: what happened between this node and each peer, kept beyond the connection, so that "why?" has an
//! answer when somebody asks later.
//!
//! It decides nothing. [`Managed`](super::managed::Managed) lets it see what the peer manager hears and what it does.

use core::{fmt, net::SocketAddr, time::Duration};
use peerage_core::{
    Action, CloseReason, Closed, ClosedBy, Command, DropReason, Fault, LinkId, LinkInfo, NetworkEvent, NodeId, Now,
    Outlet, Timestamp, UnixMillis,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::peer_manager::{PeerEvent, PeerManager, Subject};

/// Happenings kept for each peer (our guess: a bad hour of one that comes and goes).
pub const EVENTS: usize = 64;
/// Peers that are kept; beyond that the one of which nothing was heard for longest is forgotten: first those who were only
/// turned away or not reached, last those who are connected, so that new keys do not wash away what somebody did. Our
/// guess: a night of strangers at one a minute, and 2 MiB at most.
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
    /// It broke so many that it is banned by its identity; bans of groups of addresses are not noted here.
    Banned {
        /// For how long from then on.
        for_how_long: Duration,
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
            Self::Ended { .. } => "ended",
        }
    }

    /// The stable name of the reason, where there is one.
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Dialled { .. } | Self::Admitted { .. } | Self::Banned { .. } => None,
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
            Self::Banned { for_how_long } => write!(f, "banned for {} minutes", for_how_long.as_secs().div_ceil(60)),
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
    /// Whose fault was booked last: a ban that follows is for that.
    faulted: Option<NodeId>,
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
            NetworkEvent::Shed { peer, command, reason } => {
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
            Action::Link(Outlet::Admit(link)) => {
                let Some((info, counts)) = self.links.get_mut(link) else { return };
                *counts = true;
                let (peer, addr, outbound) = (info.peer, info.remote, info.outbound);
                self.note(now, peer, Happening::Admitted { addr, outbound });
            }
            Action::Emit(PeerEvent::Fault { peer, fault }) => {
                self.faulted = Some(*peer);
                self.note(now, *peer, Happening::Faulted { fault: *fault });
            }
            Action::Emit(PeerEvent::Bans(bans)) => {
                let Some(peer) = self.faulted.take() else { return };
                if let Some(ban) = bans.iter().find(|ban| ban.subject == Subject::Peer(peer)) {
                    self.note(now, peer, Happening::Banned { for_how_long: ban.until.since(now.wall) });
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, now: Now, peer: NodeId, what: Happening) {
        let flight = self.flights.entry(peer).or_default();
        self.order.remove(&(flight.standing, flight.heard, peer));
        flight.standing = match what {
            Happening::Admitted { .. } => Standing::Connected,
            Happening::Ended { .. } => Standing::Known,
            Happening::Faulted { .. } | Happening::Banned { .. } => flight.standing.max(Standing::Known),
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
