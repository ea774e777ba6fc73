//! What happens on connections, from the stream that opens to the end of it.

use core::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};
use peerage_core::{
    Budget, Charge, Class, CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, DropReason, LinkId,
    Message, NetworkEvent, NodeId, PerClass, Pool, Protocol, RequestError, RequestId,
};
use peerage_wire::limits::MESSAGE_OVERHEAD;
use std::{io, sync::Arc};
use tokio::time::timeout;

use crate::{
    driver::{
        BoxedStream, Target,
        link::{Desk, EndGuard, LinkEvent, LinkParts, LinkTask, count_dropped, refused},
        mailbox::mailbox,
        registry::LinkHandle,
    },
    proto::{admission::Verdict, inflow::Inflow},
};

use super::{Asked, Link, Opened, Runner};

/// How long a security layer below the records may take (parameters, 1.1: as the handshake above it).
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time from one refused stream that the stack is told of to the next: what is said of them goes before all messages
/// (our guess: enough to tell who was turned away, little beside what a turn of the stack does).
const TELL_AGAIN: Duration = Duration::from_millis(10);

/// Set in the names of questions that came with first words, so that they are known as such when their connection is gone. Other
/// names count up from zero, and never come so far.
const EARLY: u64 = 1 << 63;

/// Whether a question came from somebody who did not count when it asked.
pub(super) const fn is_early(RequestId(name): RequestId) -> bool {
    name & EARLY != 0
}

impl<P, F> Runner<P, F>
where
    P: Protocol + Send + 'static,
    P::Command: Send + 'static,
    P::Event: Send + 'static,
    F: FnMut(P::Event) + Send + 'static,
{
    pub(super) fn dial(&mut self, addr: SocketAddr, target: Target) {
        let (fabric, opened) = (Arc::clone(&self.fabric), self.opened.0.clone());
        let patience = self.config.dial_timeout;
        tokio::spawn(async move {
            let stream = timeout(patience, fabric.dial(addr)).await;
            let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // An error means that the stack is gone and wants nobody any more.
            let _unheard = opened.send(Opened::Dialled { addr, target, stream }).await;
        });
    }

    pub(super) fn opened(&mut self, opened: Opened) {
        match opened {
            Opened::Accepted(stream, remote) => self.accepted(stream, remote),
            Opened::Dialled { addr, target, stream: Ok(stream) } => {
                let link = LinkId(self.number());
                self.start_link(link, stream, addr, Some(target));
            }
            Opened::Dialled { addr, target: Target { expected, .. }, stream: Err(error) } => {
                let closed = refused(&error);
                count_closed(closed);
                self.stack.push(NetworkEvent::DialFailed { addr, expected, closed });
            }
        }
    }

    fn accepted(&mut self, stream: BoxedStream, remote: SocketAddr) {
        let link = LinkId(self.number());
        match self.admission.accept(self.clock.now().mono, link, remote.ip(), self.registry.len()) {
            Verdict::Admit => {}
            Verdict::Evict(oldest) => self.close(oldest, CloseReason::HalfOpenLimit),
            Verdict::Refuse(reason) => {
                count_closed(Closed::by_us(reason));
                // A flood of them is not worth more than a word now and then.
                let now = self.clock.now().mono;
                if self.turned_away.is_none_or(|last| now >= last + TELL_AGAIN) {
                    self.turned_away = Some(now);
                    self.stack.push(NetworkEvent::TurnedAway { remote, reason });
                }
                return tracing::debug!(%remote, %reason, "stream refused unread");
            }
        }
        self.start_link(link, stream, remote, None);
    }

    fn start_link(&mut self, link: LinkId, stream: BoxedStream, remote: SocketAddr, target: Option<Target>) {
        let (post, mail) = mailbox();
        let (post, starved, desk) = (Arc::new(post), Arc::<AtomicBool>::default(), Arc::<Desk>::default());
        let account = Budget::account(self.config.owed_per_peer);
        let (outbound, dialled) = (target.is_some(), target.as_ref().map(|target| target.expected));
        let inflow = Inflow::new(self.config.inflow, self.clock.now().mono);
        let entry = Link {
            remote,
            dialled,
            info: None,
            admitted: false,
            early: Vec::new(),
            inflow,
            account: account.clone(),
            starved: Arc::clone(&starved),
            post: Arc::clone(&post),
            desk: Arc::clone(&desk),
            outgoing: Vec::new(),
            outgoing_bytes: 0,
            consumed: PerClass::default(),
            due: PerClass::default(),
            waits: false,
            stopped: false,
            seated: false,
        };
        self.links.insert(link, Box::new(entry));
        self.order(link, ConnectionCommand::Account(account.clone()));
        if !self.heartbeat.is_empty() {
            self.order(link, ConnectionCommand::Heartbeat(self.heartbeat.clone()));
        }
        self.registry.insert(link, LinkHandle { remote, outbound, peer: None, account: account.clone(), post });
        let (security, clock, events) = (Arc::clone(&self.security), self.clock, self.link_events.0.clone());
        let gate = self.gates.join(link);
        let stream = gate.metered(stream);
        let write_patience = self.config.write_patience;
        tokio::spawn(async move {
            let _guard = EndGuard { link, events: events.clone() };
            let opening = security.open(stream, remote, target, clock.now());
            let secured = tokio::select! {
                secured = timeout(OPEN_TIMEOUT, opening) => secured,
                // Nobody is told why: there is no channel yet in which to say it.
                () = mail.told_to_end() => return,
            };
            let secured = secured.unwrap_or(Err(Closed::by_us(CloseReason::HandshakeTimeout)));
            let (stream, connection): (_, Box<dyn Connection + Send>) = match secured {
                Ok(secured) => secured,
                Err(closed) => {
                    let event = LinkEvent::Connection(vec![ConnectionEvent::Closed(closed)]);
                    // The guard's word follows; if this one cannot be said, neither can that.
                    let _unheard = events.send((link, event));
                    return;
                }
            };
            let parts = LinkParts {
                link,
                remote,
                connection,
                stream,
                clock,
                account,
                starved,
                mail,
                events,
                gate,
                write_patience,
            };
            desk.lay(LinkTask::new(parts));
            desk.run().await;
        });
    }

    pub(super) fn link_event(&mut self, link: LinkId, event: LinkEvent) {
        match event {
            LinkEvent::Ended => {
                self.registry.remove(link);
                self.link_closed(link, Closed::by_network(CloseReason::StreamError));
            }
            LinkEvent::Writable => {
                if let Some(peer) = self.admitted_peer(link) {
                    self.stack.push(NetworkEvent::Writable { peer });
                }
            }
            LinkEvent::Skipped(class, bytes) => self.consumed(link, class, bytes),
            LinkEvent::Connection(events) => {
                events.into_iter().for_each(|event| self.connection_event(link, event));
            }
        }
    }

    fn admitted_peer(&self, link: LinkId) -> Option<NodeId> {
        self.links.get(&link).filter(|link| link.admitted)?.info.as_ref().map(|info| info.peer)
    }

    fn connection_event(&mut self, link: LinkId, event: ConnectionEvent) {
        let Some(entry) = self.links.get_mut(&link) else { return }; // we closed it; what still arrives is void
        match event {
            ConnectionEvent::Established(info) => {
                entry.info = Some(info.clone());
                self.registry.established(link, info.peer);
                self.admission.established(link);
                self.stack.push(NetworkEvent::LinkUp { link, info });
            }
            ConnectionEvent::Closed(closed) => self.link_closed(link, closed),
            ConnectionEvent::Waits(waits) => entry.waits = waits,
            ConnectionEvent::Early { id, claims, message } => {
                let remote = entry.remote;
                // Nobody has a floor for what a stranger asks; and it is asked again, if anybody is there.
                let Ok(charge) = self.config.budget.charge(Pool::Inbox, message.len() + MESSAGE_OVERHEAD) else {
                    return count_dropped(DropReason::OverBudget, 1);
                };
                let name = RequestId(EARLY | self.number());
                self.to_answer.insert(name, (link, id));
                let class = message.command.class();
                // It cost its sender no credit.
                self.stack.push_from(link, class, 0, NetworkEvent::Early { claims, remote, id: name, message, charge });
            }
            event if entry.admitted => self.admitted_event(link, event),
            event => entry.early.push(event),
        }
    }

    fn admitted_event(&mut self, link: LinkId, event: ConnectionEvent) {
        let Some(peer) = self.admitted_peer(link) else { return };
        match event {
            ConnectionEvent::Message { message, charge } => {
                let (class, bytes, charge) = arrived(&message, charge);
                self.stack.push_from(link, class, bytes, NetworkEvent::Message { peer, message, charge });
            }
            ConnectionEvent::Request { id, message, charge } => {
                let name = RequestId(self.number());
                self.to_answer.insert(name, (link, id));
                let (class, bytes, charge) = arrived(&message, charge);
                self.stack.push_from(link, class, bytes, NetworkEvent::Request { peer, id: name, message, charge });
            }
            ConnectionEvent::Response { id, result } => match (self.answered(id), result) {
                (Some(Asked { peer, id, command, .. }), Ok((message, charge))) => {
                    let (class, bytes, charge) = arrived(&message, charge);
                    let result = Ok((message, charge));
                    self.stack.push_from(link, class, bytes, NetworkEvent::Response { peer, id, command, result });
                }
                (Some(Asked { peer, id, command, .. }), Err(error)) => {
                    if error == RequestError::Dropped(DropReason::Shed) {
                        count_dropped(DropReason::Shed, 1);
                    }
                    self.stack.push(NetworkEvent::Response { peer, id, command, result: Err(error) });
                }
                // Nobody waits any more, but the sender's credit must come back all the same.
                (None, Ok((message, charge))) => {
                    let (class, bytes, _charge) = arrived(&message, charge);
                    self.consumed(link, class, bytes);
                }
                (None, Err(_)) => {}
            },
            ConnectionEvent::Stats(stats) => self.stack.push(NetworkEvent::PeerStats { peer, stats }),
            ConnectionEvent::Heartbeat(data) => self.stack.push(NetworkEvent::Heartbeat { peer, data }),
            // The link task counted it.
            ConnectionEvent::Unsent { command, reason, .. } => {
                self.stack.push(NetworkEvent::Dropped { peer, command, reason });
            }
            // The link task counts what was skipped and packed; the others were handled before.
            ConnectionEvent::Skipped { .. }
            | ConnectionEvent::Packed { .. }
            | ConnectionEvent::Established(_)
            | ConnectionEvent::Early { .. }
            | ConnectionEvent::Waits(_)
            | ConnectionEvent::Closed(_) => {}
        }
    }

    /// What was asked by this name, if somebody waits for it.
    fn answered(&mut self, id: u64) -> Option<Asked> {
        self.crowded |= self.asked.len() > 1;
        self.asked.remove(&id)
    }

    pub(super) fn admit(&mut self, link: LinkId, guest: bool) {
        let Some(entry) = self.links.get_mut(&link) else { return }; // it ended just before
        let Some(info) = entry.info.clone() else { return };
        entry.admitted = true;
        let early = std::mem::take(&mut entry.early);
        let peer = info.peer;
        self.config.budget.enter(&entry.account);
        if !guest {
            self.seat(link);
        }
        self.live.insert(peer, link);
        tracing::debug!(%peer, remote = %info.remote, outbound = info.outbound, "peer up");
        self.stack.push(NetworkEvent::PeerUp { peer, info });
        for event in early {
            self.admitted_event(link, event);
        }
    }

    pub(super) fn close(&mut self, link: LinkId, reason: CloseReason) {
        self.order(link, ConnectionCommand::Close(reason));
        self.link_closed(link, Closed::by_us(reason));
    }

    /// The end of a connection for the stack; its task may still be writing its last words.
    fn link_closed(&mut self, link: LinkId, closed: Closed) {
        let Some(mut entry) = self.links.remove(&link) else { return };
        entry.post.put(&mut entry.outgoing);
        self.admission.ended(link);
        self.releases.cancel(&link);
        count_closed(closed);
        self.to_answer.retain(|_, (asker, _)| *asker != link);
        let lost: Vec<_> = self.asked.iter().filter(|(_, asked)| asked.link == link).map(|(id, _)| *id).collect();
        for wire_id in lost {
            if let Some(Asked { peer, id, command, .. }) = self.asked.remove(&wire_id) {
                let result = Err(RequestError::Closed(closed));
                self.stack.push(NetworkEvent::Response { peer, id, command, result });
            }
        }
        match (entry.info, entry.dialled) {
            (Some(info), _) => {
                let peer = info.peer;
                tracing::debug!(%peer, remote = %info.remote, %closed, admitted = entry.admitted, "connection closed");
                self.stack.push(NetworkEvent::LinkDown { link, closed });
                if entry.admitted && self.live.get(&peer) == Some(&link) {
                    self.live.remove(&peer);
                    self.stack.push(NetworkEvent::PeerDown { peer, closed });
                }
            }
            (None, Some(expected)) => {
                tracing::debug!(addr = %entry.remote, %closed, "dial failed");
                self.stack.push(NetworkEvent::DialFailed { addr: entry.remote, expected, closed });
            }
            (None, None) => tracing::debug!(remote = %entry.remote, %closed, "handshake failed"),
        }
    }
}

/// What a message that arrived counts for: its class, the credit it cost its sender, and its charge in the next queue.
fn arrived(message: &Message, charge: Charge) -> (Class, usize, Charge) {
    (message.command.class(), charge.bytes(), charge.transfer(Pool::Inbox))
}

pub(super) fn count_closed(closed: Closed) {
    let (by, reason) = (closed.by.label(), closed.reason.label());
    metrics::counter!("peerage_connections_closed_total", "by" => by, "reason" => reason).increment(1);
}
