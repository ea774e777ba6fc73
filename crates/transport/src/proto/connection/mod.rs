//! One connection: a stream of bytes becomes an authenticated, encrypted, message-oriented connection.
//!
//! # States
//! ```text
//!             dial: preamble, message 1                 listen
//!                        |                                 |
//!                        v                                 v
//!                  Handshaking  <- XX or IK, step by step ->  Handshaking
//!                        |                                 | IK: message 1 -> message 2
//!                        | XX: message 2 -> message 3      +---> Confirming
//!                        | IK: message 2                   |         | the first record under keys
//!                        |                  XX: message 3  |         | authenticates
//!                        +-------------> Open <------------+---------+
//!                                         |  ^
//!                        budget refuses   v  |  retried every 50 ms
//!                                     Open, paused
//! ```
//! The steps of the handshake are in `handshake.rs`. `Established` is told on the way to `Open`: message 1 of IK can be
//! repeated by whoever heard it, so its author counts only once it has sealed something. A question in it (`early.rs`) is told as
//! [`ConnectionEvent::Early`] on the way to `Confirming`, and may be answered there.
//!
//! From each of them to `Closed`, exactly once, with [`ConnectionEvent::Closed`]:
//!
//! | by | when | the other side is sent |
//! |---|---|---|
//! | us | wrong magic, or no preamble at all | nothing |
//! | us | handshake: version, network, suite, peer, proof, 5 s | REFUSE in clear (CLOSE once keys stand) |
//! | us | confirming: a record that does not authenticate, 5 s in all | CLOSE |
//! | us | open: command `Close`, a broken rule, 90 s of silence, 15 s without memory | CLOSE |
//! | them | REFUSE (unauthenticated), CLOSE | nothing |
//! | network | the stream ends | nothing |
//!
//! # Inputs and outputs
//! Bytes, the end of the stream, [`ConnectionCommand`]s and timeouts go in; bytes, [`ConnectionEvent`]s and the next
//! timeout come out: see [`Connection`]. Before `Established` a notification is dropped, an answer too unless the question came
//! with message 1, and a request fails with `NotConnected`. The machine holds one record of input at most, beside what was
//! handed in while it wants no bytes.
//!
//! # Credit
//! [`Consumed`](ConnectionCommand::Consumed) counts as [`credit::cost`] does: for each message what its
//! [`Charge`](peerage_core::Charge) held when the event came, and what [`Skipped`](ConnectionEvent::Skipped) says.
//!
//! Reading order: `config.rs`, `handshake.rs`, `sealed.rs`, `records.rs`, `open.rs`, `mux.rs`, `credit.rs`, `requests.rs`,
//! `early.rs`, `heartbeat.rs`, `commands.rs`.

pub mod commands;
mod config;
pub mod credit;
mod early;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handshake;
mod heartbeat;
mod mux;
mod open;
mod pace;
mod packing;
mod records;
mod requests;
mod sealed;
#[cfg(test)]
mod tests;

pub use config::{ConnectionConfig, REKEY_EVERY, WIRE_VERSION};
pub use handshake::Session;
pub use packing::COMPRESSION;

use core::{fmt, net::SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{
    Account, Class, CloseReason, Closed, ClosedBy, Connection, ConnectionCommand, ConnectionEvent, DialKey, DropReason,
    LinkInfo, Message, NodeId, Now, PerClass, RequestError, SecretRng, Timestamp, queue::rest,
};
use peerage_wire::{RecordKind, put_record};

use commands::MAX_HEARTBEAT_DATA;
use handshake::{Answer, Channel, Failure, Handshake, Secured, Whom};
use open::{Events, Open};

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
    /// Who pays for what arrives.
    account: Option<Account>,
}

enum State {
    /// No keys yet. Next: `Open`, `Closed`. With what heartbeats will carry.
    Handshaking(Box<Handshake>, Bytes),
    /// Keys stand, but nobody has shown to have the other side's. Next: `Open`, `Closed`.
    Confirming(Box<Confirming>),
    /// Messages flow. Next: `Closed`.
    Open(Box<Open>),
    /// It is over; perhaps the last words are still to be sent.
    Closed,
}

/// A connection whose other side has only repeated, perhaps, what somebody else said.
struct Confirming {
    open: Open,
    info: LinkInfo,
    deadline: Timestamp,
    /// The id of a question that came with message 1 and was not answered yet.
    asked: Option<u64>,
    /// Whether its answer waits in `open` and may be sent.
    answers: bool,
}

impl SecureConnection {
    /// A connection over a fresh stream, which we dialled (`outbound`) or accepted, by a handshake that presumes nothing.
    ///
    /// `remote` is the other end of the stream and `expected` who was dialled, anyone if `None`. `rng` gives the ephemeral
    /// keys and the nonces of pings.
    pub fn new(
        config: Arc<ConnectionConfig>,
        outbound: bool,
        remote: SocketAddr,
        expected: Option<NodeId>,
        now: Now,
        rng: SecretRng,
    ) -> Self {
        if outbound {
            return Self::dial(config, remote, expected, None, now, rng);
        }
        let handshake = Handshake::listen(&config, now.mono + config.handshake_deadline);
        Self::handshaking(config, false, remote, handshake, Vec::new(), rng)
    }

    /// A connection over a fresh stream that we dialled; `dial_key` is what the expected peer's last connection told of its
    /// process ([`LinkInfo::dial_key`]), if there was one. An old key costs a round trip and nothing else.
    pub fn dial(
        config: Arc<ConnectionConfig>,
        remote: SocketAddr,
        expected: Option<NodeId>,
        dial_key: Option<DialKey>,
        now: Now,
        rng: SecretRng,
    ) -> Self {
        Self::ask(config, remote, expected, dial_key, None, now, rng)
    }

    /// As [`dial`](Self::dial), with what will be asked as soon as the connection stands. If there is a dial key, and the command
    /// is one of [`early`](ConnectionConfig::early), message 1 asks it; the same request, made within a second, finds its answer under
    /// way or there. It is sent like any other if message 1 came to nothing.
    pub fn ask(
        config: Arc<ConnectionConfig>,
        remote: SocketAddr,
        expected: Option<NodeId>,
        dial_key: Option<DialKey>,
        question: Option<Message>,
        now: Now,
        mut rng: SecretRng,
    ) -> Self {
        let mut output = Vec::new();
        let deadline = now.mono + config.handshake_deadline;
        let whom = Whom { expected, dial_key, question };
        let handshake = Handshake::dial(&config, whom, deadline, &mut rng, &mut output);
        Self::handshaking(config, true, remote, handshake, output, rng)
    }

    /// A connection over a stream that mutual TLS has secured, with what that `session` has shown; `dialled` says whom we
    /// expected if we dialled. What is left to do is to prove the identities that the certificates name; then records
    /// go in clear, for TLS seals them. `now` is when the stream began, from where the deadline of the handshake counts.
    pub fn certified(
        config: Arc<ConnectionConfig>,
        remote: SocketAddr,
        session: Session,
        dialled: Option<Option<NodeId>>,
        now: Now,
        rng: SecretRng,
    ) -> Self {
        let (outbound, deadline) = (dialled.is_some(), now.mono + config.handshake_deadline);
        let mut output = Vec::new();
        match Handshake::certified(&config, session, dialled, deadline, &mut output) {
            Ok(handshake) => Self::handshaking(config, outbound, remote, handshake, output, rng),
            Err(failure) => {
                let mut this = Self::ended(config, outbound, remote, rng);
                this.fail(failure);
                this
            }
        }
    }

    /// The end of a stream that never became a connection, because of the layer that should have secured it: what there is
    /// to say is said in clear if `tell`, and `closed` goes to the runner as if the connection had begun.
    pub fn refused(
        config: Arc<ConnectionConfig>,
        outbound: bool,
        remote: SocketAddr,
        closed: Closed,
        tell: bool,
        rng: SecretRng,
    ) -> Self {
        let mut this = Self::ended(config, outbound, remote, rng);
        this.fail(Failure { closed, answer: if tell { Answer::Refuse } else { Answer::Silence } });
        this
    }

    /// The layer below that secures the stream has come to an end of its own, by its own verdict or the other side's. A
    /// verdict of ours is still told to the other side.
    pub fn handle_end_below(&mut self, closed: Closed) {
        self.end(closed);
    }

    fn ended(config: Arc<ConnectionConfig>, outbound: bool, remote: SocketAddr, rng: SecretRng) -> Self {
        let (state, output, events) = (State::Closed, Vec::new(), Events::new());
        Self { config, outbound, remote, rng, state, output, events, closed: None, account: None }
    }

    fn handshaking(
        config: Arc<ConnectionConfig>,
        outbound: bool,
        remote: SocketAddr,
        handshake: Handshake,
        output: Vec<u8>,
        rng: SecretRng,
    ) -> Self {
        let state = State::Handshaking(Box::new(handshake), Bytes::new());
        Self { config, outbound, remote, rng, state, output, events: Events::new(), closed: None, account: None }
    }

    /// Keys stand. In IK the responder spoke last, and waits.
    fn secured(&mut self, now: Now, mut secured: Secured, data: Bytes, deadline: Timestamp) {
        let (dial_key, repeatable) = match &secured.channel {
            Channel::Noise { pattern, keys } => (Some(DialKey(keys.remote_static)), pattern.first_may_be_repeated()),
            Channel::Below => (None, false),
        };
        let info = LinkInfo {
            peer: secured.peer,
            outbound: self.outbound,
            remote: self.remote,
            listen: secured.listen.clone(),
            features: secured.features,
            dial_key,
        };
        let waits = !self.outbound && repeatable;
        let early = secured.early.take();
        let mut open = Open::new(&self.config, self.outbound, secured, data, now.mono, &mut self.rng);
        if let Some(account) = self.account.take() {
            open.handle_command(now.mono, ConnectionCommand::Account(account), &mut self.events);
        }
        if waits {
            let asked = early.map(|(id, message)| {
                self.events.push_back(ConnectionEvent::Early { id, claims: info.peer, message });
                id
            });
            self.state = State::Confirming(Box::new(Confirming { open, info, deadline, asked, answers: false }));
        } else {
            if let Some((_, question)) = early {
                open.has_asked(question, now.mono);
            }
            self.establish(open, info);
        }
    }

    fn establish(&mut self, open: Open, info: LinkInfo) {
        self.events.push_back(ConnectionEvent::Established(info));
        self.state = State::Open(Box::new(open));
    }

    /// Bytes under keys. What happens before the other side has shown that it has them, nobody hears.
    fn handle_sealed(&mut self, now: Now, bytes: &[u8]) -> Result<(), Closed> {
        let confirming = match &mut self.state {
            State::Open(open) => return open.handle_bytes(now, bytes, &mut self.events),
            State::Confirming(confirming) => confirming,
            State::Handshaking(..) | State::Closed => return Ok(()),
        };
        let mut events = Events::new();
        let read = confirming.open.handle_bytes(now, bytes, &mut events);
        if confirming.open.is_confirmed()
            && let State::Confirming(confirming) = core::mem::replace(&mut self.state, State::Closed)
        {
            let Confirming { open, info, .. } = *confirming;
            self.establish(open, info);
            self.events.append(&mut events);
        }
        read
    }

    fn fail(&mut self, failure: Failure) {
        match failure.answer {
            Answer::Silence => {}
            Answer::Refuse => put_record(&mut self.output, self.config.magic, RecordKind::Refuse, |out| {
                out.push(failure.closed.reason.code());
            }),
            Answer::Close(word) => {
                word.write(&mut self.output, self.config.magic, self.config.rekey_every, failure.closed.reason);
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
            State::Confirming(confirming) => self.end_open(confirming.open, closed),
            State::Open(open) => self.end_open(*open, closed),
            State::Closed => {}
        }
    }

    fn end_open(&mut self, open: Open, closed: Closed) {
        open.close(closed, &mut self.output, &mut self.events);
        self.closed = Some(closed);
    }
}

impl Connection for SecureConnection {
    fn handle_bytes(&mut self, now: Now, mut bytes: &[u8]) {
        if let State::Handshaking(handshake, data) = &mut self.state {
            match handshake.read(&self.config, &mut self.rng, &mut bytes, &mut self.output) {
                Ok(None) => return,
                Ok(Some(secured)) => {
                    let (data, deadline) = (core::mem::take(data), handshake.deadline());
                    self.secured(now, secured, data, deadline);
                }
                Err(failure) => return self.fail(failure),
            }
        }
        if let Err(closed) = self.handle_sealed(now, bytes) {
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
            (State::Handshaking(..), ConnectionCommand::Account(account)) => self.account = Some(account),
            (State::Handshaking(_, data), ConnectionCommand::Heartbeat(new)) if new.len() <= MAX_HEARTBEAT_DATA => {
                *data = new;
            }
            (
                State::Confirming(confirming),
                command @ (ConnectionCommand::Account(_) | ConnectionCommand::Heartbeat(_)),
            ) => {
                confirming.open.handle_command(now.mono, command, &mut self.events);
            }
            (State::Confirming(confirming), ConnectionCommand::Respond { id, outbound })
                if confirming.asked == Some(id) =>
            {
                confirming.asked = None;
                confirming.answers = outbound.message.len() <= early::MAX_ANSWER;
                let command = ConnectionCommand::Respond { id, outbound };
                confirming.open.handle_command(now.mono, command, &mut self.events);
            }
            (State::Handshaking(..) | State::Confirming(_), ConnectionCommand::Request { id, .. }) => {
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
            State::Confirming(confirming) if confirming.deadline <= now.mono => {
                Err(Closed::by_us(CloseReason::HandshakeTimeout))
            }
            State::Open(open) => open.handle_timeout(now, &mut self.rng, &mut self.events),
            State::Handshaking(..) | State::Confirming(_) | State::Closed => Ok(()),
        };
        if let Err(closed) = ended {
            self.end(closed);
        }
    }

    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>, limit: usize) -> bool {
        let start = buf.len();
        buf.append(&mut self.output);
        let left = limit.checked_sub(buf.len() - start);
        let sealed = match (&mut self.state, left) {
            (State::Confirming(confirming), Some(left)) if confirming.answers => {
                confirming.open.poll_transmit(now, buf, left)
            }
            (State::Confirming(confirming), _) => confirming.open.greet(now, buf),
            (State::Open(open), Some(left)) => open.poll_transmit(now, buf, left),
            (State::Handshaking(..) | State::Open(_) | State::Closed, _) => Ok(()),
        };
        if let Err(closed) = sealed {
            self.end(closed);
        }
        buf.len() > start
    }

    fn wants_to_send(&mut self) -> PerClass<bool> {
        let mut wants = match &mut self.state {
            State::Open(open) => open.wants_to_send(),
            State::Confirming(confirming) if confirming.answers => confirming.open.wants_to_send(),
            State::Confirming(confirming) => {
                PerClass::from_fn(|class| class == Class::Control && confirming.open.greets())
            }
            State::Handshaking(..) | State::Closed => PerClass::default(),
        };
        wants[Class::Control] |= !self.output.is_empty();
        wants
    }

    fn poll_record(&mut self, now: Now, buf: &mut Vec<u8>, class: Class, limit: usize) -> bool {
        let start = buf.len();
        buf.append(&mut self.output);
        let sealed = match &mut self.state {
            _ if buf.len() > start => Ok(()),
            State::Confirming(confirming) if confirming.answers => confirming.open.poll_record(now, buf, class, limit),
            State::Confirming(confirming) => confirming.open.greet(now, buf),
            State::Open(open) => open.poll_record(now, buf, class, limit),
            State::Handshaking(..) | State::Closed => Ok(()),
        };
        if let Err(closed) = sealed {
            self.end(closed);
        }
        buf.len() > start
    }

    fn poll_event(&mut self) -> Option<ConnectionEvent> {
        let event = self.events.pop_front();
        if event.is_some() {
            return event;
        }
        // Whoever asks takes all of them, so what they took is not needed before something arrives.
        rest(&mut self.events);
        match &mut self.state {
            State::Open(open) => open.next_counted(),
            State::Handshaking(..) | State::Confirming(_) | State::Closed => {
                self.closed.take().map(ConnectionEvent::Closed)
            }
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        match &self.state {
            State::Handshaking(handshake, _) => Some(handshake.deadline()),
            State::Confirming(confirming) => Some(confirming.deadline),
            State::Open(open) => Some(open.next_timeout()),
            State::Closed => None,
        }
    }

    fn wants_bytes(&self) -> bool {
        match &self.state {
            State::Handshaking(..) | State::Confirming(_) => true,
            State::Open(open) => open.wants_bytes(),
            State::Closed => false,
        }
    }
}

impl fmt::Debug for SecureConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Handshaking(..) => "handshaking",
            State::Confirming(_) => "confirming",
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
