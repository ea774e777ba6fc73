//! One connection: a stream of bytes becomes an authenticated, encrypted, message-oriented connection.
//!
//! # States
//! ```text
//!             dial: preamble, message 1                 listen
//!                        |                                 |
//!                        v                                 v
//!                  Handshaking(Second)            Handshaking(Preamble)
//!                        |                                 | preamble
//!                        |                        Handshaking(First)
//!                        |                                 | message 1 -> message 2
//!                        | message 2 -> message 3 Handshaking(Third)
//!                        |                                 | message 3
//!                        +-------------> Open <------------+
//!                                         |  ^
//!                        budget refuses   v  |  retried every 50 ms
//!                                     Open, paused
//! ```
//! From each of them to `Closed`, exactly once, with [`ConnectionEvent::Closed`]:
//!
//! | by | when | the other side is sent |
//! |---|---|---|
//! | us | wrong magic, or no preamble at all | nothing |
//! | us | handshake: version, network, suite, peer, proof, 5 s | REFUSE in clear (CLOSE once keys stand) |
//! | us | open: command `Close`, a broken rule, 90 s of silence, 5 s without memory | CLOSE |
//! | them | REFUSE (unauthenticated), CLOSE | nothing |
//! | network | the stream ends | nothing |
//!
//! # Inputs and outputs
//! Bytes, the end of the stream, [`ConnectionCommand`]s and timeouts go in; bytes, [`ConnectionEvent`]s and the next
//! timeout come out: see [`Connection`]. Before `Established` a notification is dropped and a request fails with
//! `NotConnected`. The machine holds one record of input at most, beside what was handed in while it wants no bytes.
//!
//! # Credit
//! [`Consumed`](ConnectionCommand::Consumed) counts as [`credit::cost`] does: for each message what its
//! [`Charge`](peerage_core::Charge) held when the event came, and what [`Skipped`](ConnectionEvent::Skipped) says.
//!
//! Reading order: `config.rs`, `handshake.rs`, `sealed.rs`, `open.rs`, `mux.rs`, `credit.rs`, `requests.rs`,
//! `heartbeat.rs`, `commands.rs`.

pub mod commands;
mod config;
pub mod credit;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handshake;
mod heartbeat;
mod mux;
mod open;
mod pace;
mod requests;
mod sealed;

pub use config::{ConnectionConfig, REKEY_EVERY, WIRE_VERSION};

use core::{fmt, net::SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{
    CloseReason, Closed, ClosedBy, Connection, ConnectionCommand, ConnectionEvent, DropReason, LinkInfo, NodeId, Now,
    RequestError, SecretRng, Timestamp, queue::pop_front,
};
use peerage_wire::{RecordKind, put_record};

use commands::MAX_HEARTBEAT_DATA;
use handshake::{Answer, Failure, Handshake, Secured};
use open::{Events, Open};
use sealed::Sealer;

/// A connection over a stream that delivers bytes in order, such as TCP. See the [module](self).
pub struct SecureConnection {
    config: Arc<ConnectionConfig>,
    outbound: bool,
    remote: SocketAddr,
    rng: SecretRng,
    state: State,
    /// The handshake's messages and the last words: what is not chosen at the moment of sending.
    output: Vec<u8>,
    events: Events,
    /// How it ended, until the runner was told.
    closed: Option<Closed>,
}

enum State {
    /// No keys yet. Next: `Open`, `Closed`. With what heartbeats will carry.
    Handshaking(Box<Handshake>, Bytes),
    /// Messages flow. Next: `Closed`.
    Open(Box<Open>),
    /// It is over; perhaps the last words are still to be sent.
    Closed,
}

impl SecureConnection {
    /// A connection over a fresh stream, which we dialled (`outbound`) or accepted.
    ///
    /// `remote` is the other end of the stream and `expected` who was dialled, anyone if `None`. `rng` gives the ephemeral
    /// key and the nonces of pings.
    pub fn new(
        config: Arc<ConnectionConfig>,
        outbound: bool,
        remote: SocketAddr,
        expected: Option<NodeId>,
        now: Now,
        mut rng: SecretRng,
    ) -> Self {
        let mut output = Vec::new();
        let deadline = now.mono + config.handshake_deadline;
        let handshake = if outbound {
            Handshake::dial(&config, expected, deadline, &mut rng, &mut output)
        } else {
            Handshake::listen(&config, deadline)
        };
        let state = State::Handshaking(Box::new(handshake), Bytes::new());
        Self { config, outbound, remote, rng, state, output, events: Events::new(), closed: None }
    }

    fn establish(&mut self, now: Now, secured: Secured, data: Bytes) {
        self.events.push_back(ConnectionEvent::Established(LinkInfo {
            peer: secured.peer,
            outbound: self.outbound,
            remote: self.remote,
            listen: secured.listen.clone(),
            features: secured.features,
        }));
        let open = Open::new(&self.config, self.outbound, secured, data, now.mono, &mut self.rng);
        self.state = State::Open(Box::new(open));
    }

    fn fail(&mut self, failure: Failure) {
        match failure.answer {
            Answer::Silence => {}
            Answer::Refuse => put_record(&mut self.output, self.config.magic, RecordKind::Refuse, |out| {
                out.push(failure.closed.reason.code());
            }),
            Answer::Close(cipher) => {
                Sealer::new(cipher, self.config.rekey_every).seal_close(&mut self.output, failure.closed.reason);
            }
        }
        self.state = State::Closed;
        self.closed = Some(failure.closed);
    }

    /// Ends the connection, whatever its state; a second end changes nothing.
    fn end(&mut self, closed: Closed) {
        match core::mem::replace(&mut self.state, State::Closed) {
            State::Handshaking(handshake, _) => {
                let ours = closed.by == ClosedBy::Us;
                let answer = if ours && handshake.may_refuse() { Answer::Refuse } else { Answer::Silence };
                self.fail(Failure { closed, answer });
            }
            State::Open(open) => {
                open.close(closed, &mut self.output, &mut self.events);
                self.closed = Some(closed);
            }
            State::Closed => {}
        }
    }
}

impl Connection for SecureConnection {
    fn handle_bytes(&mut self, now: Now, mut bytes: &[u8]) {
        if let State::Handshaking(handshake, data) = &mut self.state {
            match handshake.read(&self.config, &mut self.rng, &mut bytes, &mut self.output) {
                Ok(None) => return,
                Ok(Some(secured)) => {
                    let data = core::mem::take(data);
                    self.establish(now, secured, data);
                }
                Err(failure) => return self.fail(failure),
            }
        }
        if let State::Open(open) = &mut self.state
            && let Err(closed) = open.handle_bytes(now.mono, bytes, &mut self.events)
        {
            self.end(closed);
        }
    }

    fn handle_stream_end(&mut self, _: Now, reason: CloseReason) {
        self.end(Closed::by_network(reason));
    }

    fn handle_command(&mut self, now: Now, command: ConnectionCommand) {
        match (&mut self.state, command) {
            (_, ConnectionCommand::Close(reason)) => self.end(Closed::by_us(reason)),
            (State::Open(open), command) => open.handle_command(now.mono, command, &mut self.events),
            (State::Handshaking(_, data), ConnectionCommand::Heartbeat(new)) if new.len() <= MAX_HEARTBEAT_DATA => {
                *data = new;
            }
            (State::Handshaking(..), ConnectionCommand::Request { id, .. }) => {
                let result = Err(RequestError::Dropped(DropReason::NotConnected));
                self.events.push_back(ConnectionEvent::Response { id, result });
            }
            (State::Closed, ConnectionCommand::Request { id, .. }) => {
                // Once the runner knows of the end, nothing follows.
                if let Some(closed) = self.closed {
                    let result = Err(RequestError::Closed(closed));
                    self.events.push_back(ConnectionEvent::Response { id, result });
                }
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        let ended = match &mut self.state {
            State::Handshaking(handshake, _) if handshake.deadline() <= now.mono => {
                Err(Closed::by_us(CloseReason::HandshakeTimeout))
            }
            State::Open(open) => open.handle_timeout(now.mono, &mut self.rng, &mut self.events),
            State::Handshaking(..) | State::Closed => Ok(()),
        };
        if let Err(closed) = ended {
            self.end(closed);
        }
    }

    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>, limit: usize) -> bool {
        let start = buf.len();
        buf.append(&mut self.output);
        if let State::Open(open) = &mut self.state
            && buf.len() - start <= limit
            && let Err(closed) = open.poll_transmit(now.mono, buf, limit - (buf.len() - start))
        {
            self.end(closed);
        }
        buf.len() > start
    }

    fn poll_event(&mut self) -> Option<ConnectionEvent> {
        pop_front(&mut self.events).or_else(|| self.closed.take().map(ConnectionEvent::Closed))
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        match &self.state {
            State::Handshaking(handshake, _) => Some(handshake.deadline()),
            State::Open(open) => Some(open.next_timeout()),
            State::Closed => None,
        }
    }

    fn wants_bytes(&self) -> bool {
        match &self.state {
            State::Handshaking(..) => true,
            State::Open(open) => open.wants_bytes(),
            State::Closed => false,
        }
    }
}

impl fmt::Debug for SecureConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Handshaking(..) => "handshaking",
            State::Open(_) => "open",
            State::Closed => "closed",
        };
        let Self { remote, outbound, .. } = self;
        f.debug_struct("SecureConnection")
            .field("remote", remote)
            .field("outbound", outbound)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
