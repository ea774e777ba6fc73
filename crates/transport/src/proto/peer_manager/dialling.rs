//! Dials: what for, at which address, how many; and wishes for somebody at once.
//!
//! Whom a lookup wants is somebody else's choice. Such a dial takes none of the places, of the dials and of the rights of those
//! whom the manager chose itself ([`drawing`](super::drawing)): it is one of [`MAX_WISHES`], its connection passes, and it gives
//! no place in the book.

use core::{net::SocketAddr, time::Duration};
use peerage_core::{Action, CloseReason, Closed, ClosedBy, LinkInfo, Message, NodeId, Now, Outlet, Timestamp, Want};

use super::{PeerEvent, PeerManager, Unmet, book::Entry};
use crate::proto::{admission::Group, noise::identity::MAX_EARLY};

/// Dials under way at most (our guess; Bitcoin Core opens one at a time, geth 16).
const MAX_DIALS: usize = 16;
/// Of these, for those that somebody wanted at once (our guess: a half). However many lookups are led into nothing, the manager
/// goes on to dial whom it chose.
const MAX_WISHES: usize = 8;
/// The default of `acquire_timeout`: a wish for somebody at once that finds all dials taken waits so long (our guess: half of what a lookup waits).
pub(super) const ACQUIRE: Duration = Duration::from_secs(2);
/// Wishes that wait so at a time (our guess: eight times their dials).
const MAX_WAITING: usize = 64;
/// A dial of which nobody tells the end for so long is over (our guess: far beyond a dial and a handshake). It must not take one
/// of [`MAX_DIALS`] for ever.
const DIAL_LOST: Duration = Duration::from_secs(60);

/// What a dial is for: the later, the more. One that is under way may come to be for more, never for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Only to see whether it is there.
    Feel,
    /// Somebody wants the peer just now.
    Now,
    /// To stay.
    Keep,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) peer: NodeId,
    pub(super) purpose: Purpose,
    /// Whether somebody waits for it, whatever it is for.
    pub(super) wanted: bool,
    begun: Timestamp,
    /// Whose token it took, if it took one ([`rations`](super::rations)).
    ration: Option<Option<Group>>,
}

impl PeerManager {
    /// Ends the dial that led to this connection, if one of ours did.
    pub(super) fn dial_over(&mut self, now: Now, info: &LinkInfo) -> Option<Dial> {
        let dial = if info.outbound { self.end_dial(info.remote) } else { None }?;
        if let Some(source) = dial.ration.filter(|_| dial.peer == info.peer) {
            self.rations.give_back(now.mono, source);
        }
        Some(dial)
    }

    fn end_dial(&mut self, addr: SocketAddr) -> Option<Dial> {
        let dial = self.dials.remove(&addr)?;
        let host = addr.ip().to_canonical();
        if dial.purpose == Purpose::Now && !self.is_on_this_machine(addr) && self.book.is_home(host) {
            self.freed.insert(host);
        }
        Some(dial)
    }

    pub(super) fn dial_failed(&mut self, now: Now, addr: SocketAddr, closed: Closed) {
        let Some(Dial { peer, .. }) = self.end_dial(addr) else { return };
        let configured = self.book.is_configured(&peer, addr);
        let Some(entry) = self.book.get_mut(&peer) else { return };
        entry.dial_failed(now.mono, &mut self.dice);
        // Only where it was reached before does it lose its place: a told address may be anybody's.
        let gone = entry.proven.is_none_or(|proven| proven == addr);
        if closed.reason == CloseReason::WrongSuite {
            entry.refused_key = entry.dial_key; // it does without the handshake that needs one
        }
        // What they say is not authenticated; what we found out is.
        if closed.reason == CloseReason::WrongPeer && closed.by == ClosedBy::Us && !configured {
            entry.unlearn(addr);
        }
        if gone {
            self.book.lost(now.wall, &peer);
        }
        self.remember_later(now);
    }

    /// Whether an address may be dialled for a peer: the operator's always, others if the policy allows them.
    fn allows(&self, peer: &NodeId, addr: SocketAddr) -> bool {
        self.config.addresses.allows(addr) || self.book.is_configured(peer, addr)
    }

    pub(super) fn want(&mut self, now: Now, want: Want) {
        match want {
            Want::Candidate { peer, addrs, source } if peer != self.config.local => {
                let addrs: Vec<_> = addrs.into_iter().filter(|addr| self.allows(&peer, *addr)).collect();
                if !addrs.is_empty() {
                    let told_by = source.and_then(|source| self.ip_of(&source));
                    let entry = self.book.hear(now.wall, peer, addrs, told_by);
                    let sources = [entry.teller(), told_by].map(|ip| ip.map(Group::of));
                    // Who told first, of all there are, and of many who are not there, must not keep us from these.
                    if sources.map(|source| self.rations.has(now.mono, source)) == [false, true] {
                        entry.told_again = Some(told_by);
                    }
                    self.remember_later(now);
                }
            }
            Want::Now { peer, addrs } => self.want_now(now, peer, addrs, None),
            Want::Ask { peer, addrs, question } => {
                // What no first words can carry is not kept until they are said.
                let question = Some(question).filter(|question| question.len() <= MAX_EARLY);
                self.want_now(now, peer, addrs, question);
            }
            Want::Keep { peer } => {
                if let Some(there) = self.peers.get_mut(&peer) {
                    there.useful = Some(now.mono);
                }
            }
            Want::Candidate { .. } => {} // us
        }
    }

    /// Dials whom somebody wants at once, to ask it this, or says why not.
    fn want_now(&mut self, now: Now, peer: NodeId, addrs: Vec<SocketAddr>, question: Option<Message>) {
        if peer == self.config.local {
            return;
        }
        if let Some(there) = self.peers.get_mut(&peer) {
            there.wanted = now.mono;
            return;
        }
        let addrs: Vec<_> = addrs.into_iter().filter(|addr| self.allows(&peer, *addr)).collect();
        self.book.note(now.wall, peer, addrs, None);
        match self.dial_to_ask(now, peer, Purpose::Now, question.as_ref()) {
            Ok(()) => {}
            Err(Unmet::Busy) if self.waiting.iter().any(|(_, waits, _)| *waits == peer) => {}
            Err(Unmet::Busy) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back((now.mono + self.config.acquire_timeout, peer, question));
            }
            Err(why) => self.unmet(peer, why),
        }
    }

    /// Looks again at wishes that found all dials taken.
    pub(super) fn serve_waiting(&mut self, now: Now) {
        for (deadline, peer, question) in core::mem::take(&mut self.waiting) {
            if self.peers.contains_key(&peer) {
                continue;
            }
            match self.dial_to_ask(now, peer, Purpose::Now, question.as_ref()) {
                Ok(()) => {}
                Err(Unmet::Busy) if now.mono < deadline => self.waiting.push_back((deadline, peer, question)),
                Err(why) => self.unmet(peer, why),
            }
        }
    }

    /// Somebody waits for a peer in vain.
    pub(super) fn unmet(&mut self, peer: NodeId, why: Unmet) {
        self.actions.push_back(Action::Emit(PeerEvent::Unmet { peer, why }));
    }

    /// Dials a peer, or makes a dial that is under way serve one purpose more.
    pub(super) fn dial(&mut self, now: Now, peer: NodeId, purpose: Purpose) -> Result<(), Unmet> {
        self.dial_to_ask(now, peer, purpose, None)
    }

    /// As [`dial`](Self::dial), with what will be asked; a dial that is under way already carries what it carries.
    fn dial_to_ask(
        &mut self,
        now: Now,
        peer: NodeId,
        purpose: Purpose,
        question: Option<&Message>,
    ) -> Result<(), Unmet> {
        let wanted = purpose == Purpose::Now;
        if let Some(under_way) = self.dials.values_mut().find(|dial| dial.peer == peer) {
            under_way.purpose = under_way.purpose.max(purpose);
            under_way.wanted |= wanted;
            return Ok(());
        }
        let addr = self.book.get(&peer).map_or(Err(Unmet::NoAddress), |entry| self.way_to(now, &peer, entry))?;
        let wishes = self.dials.values().filter(|dial| dial.purpose == Purpose::Now).count();
        let freed = self.freed.contains(&addr.ip().to_canonical());
        if self.dials.len() >= MAX_DIALS || wanted && (wishes >= MAX_WISHES || freed) {
            return Err(Unmet::Busy);
        }
        let ration = self.book.get(&peer).and_then(|entry| self.ration_of(&peer, entry, addr));
        if let Some(source) = ration {
            self.rations.take(now.mono, source);
        }
        let Some(entry) = self.book.get_mut(&peer) else { return Err(Unmet::NoAddress) };
        entry.dialled = now.wall;
        let dial_key = entry.dial_key.filter(|key| entry.refused_key != Some(*key));
        self.dials.insert(addr, Dial { peer, purpose, wanted, begun: now.mono, ration });
        let question = question.filter(|_| dial_key.is_some()).cloned();
        self.actions.push_back(Action::Link(Outlet::Dial { addr, expected: Some(peer), dial_key, question }));
        Ok(())
    }

    /// The address at which a peer may be dialled now, or why there is none.
    pub(super) fn way_to(&self, now: Now, peer: &NodeId, entry: &Entry) -> Result<SocketAddr, Unmet> {
        if entry.addrs.is_empty() {
            return Err(Unmet::NoAddress);
        }
        // What is in the way of the address that comes furthest. This is asked of all of the book, so each address is looked at
        // once.
        let mut why = Unmet::Denied;
        let way = entry.next_addr(|addr| {
            let hurdle = if self.is_denied(peer, Some(addr)) {
                return false;
            } else if self.is_banned(now, peer, addr) {
                Unmet::Banned
            } else if entry.not_before > now.mono {
                Unmet::Resting
            } else if self.is_host_in_use(peer, entry, addr) {
                Unmet::AddressInUse
            } else if self.ration_of(peer, entry, addr).is_some_and(|source| !self.rations.has(now.mono, source)) {
                Unmet::Rationed
            } else {
                return true;
            };
            if why == Unmet::Denied || hurdle != Unmet::Banned {
                why = hurdle;
            }
            false
        });
        way.ok_or(why)
    }

    /// Whose tokens a dial takes: of whoever told of a peer, unless it was reached there or the operator says that it is there.
    fn ration_of(&self, peer: &NodeId, entry: &Entry, addr: SocketAddr) -> Option<Option<Group>> {
        let sure = entry.proven == Some(addr) || self.book.is_configured(peer, addr) || self.is_on_this_machine(addr);
        (!sure).then(|| entry.teller().map(Group::of))
    }

    /// Whether the address, or the host of one that is only told of, is being dialled already: whoever tells of many nodes at
    /// somebody's host has it dialled by one at a time.
    fn is_host_in_use(&self, peer: &NodeId, entry: &Entry, addr: SocketAddr) -> bool {
        if entry.proven == Some(addr) || self.book.is_configured(peer, addr) || self.is_on_this_machine(addr) {
            return self.dials.contains_key(&addr);
        }
        let host = addr.ip().to_canonical();
        self.dials.keys().any(|dialled| dialled.ip().to_canonical() == host)
    }

    /// Whether a dial to this peer is under way.
    pub(super) fn is_dialled(&self, peer: &NodeId) -> bool {
        self.dials.values().any(|dial| dial.peer == *peer)
    }

    /// Gives up dials whose end nobody told.
    pub(super) fn drop_lost_dials(&mut self, now: Now) {
        let lost = |dial: &Dial| now.mono.since(dial.begun) >= DIAL_LOST;
        let lost: Vec<_> =
            self.dials.iter().filter(|(_, dial)| lost(dial)).map(|(addr, dial)| (*addr, *dial)).collect();
        for (addr, dial) in lost {
            let closed = Closed::by_us(CloseReason::DialTimeout);
            self.dial_failed(now, addr, closed);
            if dial.wanted {
                self.unmet(dial.peer, Unmet::TurnedAway(closed.reason));
            }
        }
    }
}
