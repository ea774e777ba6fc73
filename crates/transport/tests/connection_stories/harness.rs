//! Two connections, a pipe that splits bytes at random, a clock that only the test moves.

use core::{cell::Cell, net::SocketAddr, time::Duration};
use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use peerage_core::{
    Account, Budget, Class, CloseReason, Closed, Command, Connection, ConnectionCommand, ConnectionEvent, DialKey,
    Layer, Message, NetworkId, NodeId, Now, Outbound, Pool, RequestError, SecretRng, Seed, SeededRng,
};
use peerage_transport::proto::{
    connection::{ConnectionConfig, SecureConnection, Session, credit::cost},
    keypair::Keypair,
};
use peerage_wire::{Limits, Magic, limits::MAX_CONTENT};
use rand_core::Rng;

/// The side that dialled, and the other one.
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

pub(crate) const VOTE: Command = Command::new(Layer::Application, 0, Class::Consensus);
pub(crate) const HAVE: Command = Command::new(Layer::Application, 1, Class::Signal);
pub(crate) const ITEM: Command = Command::new(Layer::Application, 2, Class::Gossip);
pub(crate) const SYNC: Command = Command::new(Layer::Application, 3, Class::Bulk);
/// In no table of limits.
pub(crate) const STRANGE: Command = Command::new(Layer::Application, 31, Class::Signal);

pub(crate) const LIMITS: &[(Command, u32)] =
    &[(VOTE, 256 << 10), (HAVE, 64 << 10), (ITEM, MAX_CONTENT as u32), (SYNC, MAX_CONTENT as u32)];

/// What everybody may know of these.
pub(crate) const PUBLIC: &[Command] = &[ITEM, SYNC];

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How much a side writes at a time; a socket's worth.
const FLIGHT: usize = 64 << 10;

/// The configuration of one side of a test; `number` makes its keys.
pub(crate) fn config(number: u8) -> ConnectionConfig {
    let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(number.into()).derive("config"));
    let keypair = Arc::new(Keypair::from_seed(&[number; 32]));
    let limits = Arc::new(Limits::new(&[LIMITS]).with_public(&[PUBLIC]));
    let network = NetworkId::from_bytes([9; 32]);
    ConnectionConfig::new(keypair, network, Magic::DEV, limits, Budget::default(), &mut rng)
}

thread_local! {
    /// Whether pairs meet over a stream that is secured below, in place of Noise; for stories that must not care.
    static CERTIFIED: Cell<bool> = const { Cell::new(false) };
}

/// Runs stories again over records in clear.
pub(crate) fn over_a_secured_stream(stories: &[fn()]) {
    CERTIFIED.set(true);
    stories.iter().for_each(|story| story());
    CERTIFIED.set(false);
}

/// What the session below a secured stream has shown to the side with `own` configuration.
pub(crate) fn session(own: &ConnectionConfig, other: &ConnectionConfig) -> Session {
    let certificate = |config: &ConnectionConfig| *config.keypair.node_id().as_bytes();
    let certified = other.keypair.node_id();
    Session { exporter: [5; 32], own_certificate: certificate(own), remote_certificate: certificate(other), certified }
}

pub(crate) struct Side {
    pub(crate) connection: SecureConnection,
    pub(crate) config: Arc<ConnectionConfig>,
    /// Everything that happened and was not taken by the test.
    pub(crate) events: VecDeque<ConnectionEvent>,
    /// Bytes on their way to this side.
    pub(crate) wire: Vec<u8>,
    /// Pays for what the test makes this side send.
    pub(crate) account: Account,
    pub(crate) outbound_budget: Budget,
    /// Whether deliveries are consumed as soon as they come.
    pub(crate) consumes: bool,
    ended: bool,
}

pub(crate) struct Pair {
    pub(crate) sides: [Side; 2],
    pub(crate) now: Now,
    pub(crate) rng: SeededRng,
}

impl Pair {
    /// Two sides at the beginning of a stream.
    pub(crate) fn fresh(seed: u64, a: ConnectionConfig, b: ConnectionConfig, expected: Option<NodeId>) -> Self {
        Self::knowing(seed, a, b, expected, None)
    }

    /// Two sides at the beginning of a stream, whose dialler knows a key of whom it dials.
    pub(crate) fn knowing(
        seed: u64,
        a: ConnectionConfig,
        b: ConnectionConfig,
        expected: Option<NodeId>,
        dial_key: Option<DialKey>,
    ) -> Self {
        Self::asking(seed, a, b, expected, dial_key, None)
    }

    /// The same, whose dialler asks something with its first words if it can.
    pub(crate) fn asking(
        seed: u64,
        a: ConnectionConfig,
        b: ConnectionConfig,
        expected: Option<NodeId>,
        dial_key: Option<DialKey>,
        question: Option<Message>,
    ) -> Self {
        let seed = Seed::from_u64(seed);
        let now = Now::default();
        let side = |name: &str, outbound: bool, config: ConnectionConfig| {
            let config = Arc::new(config);
            let remote = SocketAddr::from(([127, 0, 0, 1], if outbound { 7000 } else { 50_000 }));
            let rng = SecretRng::insecure_from_seed(&seed.derive(name));
            let shared = Arc::clone(&config);
            let connection = if outbound {
                SecureConnection::ask(shared, remote, expected, dial_key, question.clone(), now, rng)
            } else {
                SecureConnection::new(shared, false, remote, None, now, rng)
            };
            let (events, wire) = (VecDeque::new(), Vec::new());
            let (account, outbound_budget) = (Budget::account(usize::MAX), Budget::default());
            Side { connection, config, events, wire, account, outbound_budget, consumes: true, ended: false }
        };
        Self { sides: [side("a", true, a), side("b", false, b)], now, rng: seed.stream("pipe") }
    }

    /// Two sides at the beginning of a stream that is secured below.
    pub(crate) fn certified(
        seed: u64,
        a: ConnectionConfig,
        b: ConnectionConfig,
        expected: Option<NodeId>,
        sessions: [Session; 2],
    ) -> Self {
        let mut pair = Self::fresh(seed, a, b, expected);
        for (at, session) in sessions.into_iter().enumerate() {
            let side = &mut pair.sides[at];
            let rng = SecretRng::insecure_from_seed(&Seed::from_u64(seed).derive(["a", "b"][at]));
            let (config, remote) = (Arc::clone(&side.config), SocketAddr::from(([127, 0, 0, 1], 7000)));
            let dialled = (at == A).then_some(expected);
            side.connection = SecureConnection::certified(config, remote, session, dialled, pair.now, rng);
        }
        pair
    }

    /// Two sides that are connected and quiet; what they said about that is forgotten.
    pub(crate) fn connected(seed: u64) -> Self {
        Self::connected_with(seed, config(1), config(2))
    }

    pub(crate) fn connected_with(seed: u64, a: ConnectionConfig, b: ConnectionConfig) -> Self {
        let mut pair = if CERTIFIED.get() {
            let sessions = [session(&a, &b), session(&b, &a)];
            Self::certified(seed, a, b, None, sessions)
        } else {
            Self::fresh(seed, a, b, None)
        };
        pair.run();
        for side in &mut pair.sides {
            let first = side.events.pop_front();
            assert!(matches!(first, Some(ConnectionEvent::Established(_))), "seed {seed}: {first:?}");
            side.events.clear();
        }
        pair
    }

    /// Does what a runner does after an input: takes the events, and consumes if this side does.
    pub(crate) fn drain(&mut self, at: usize) {
        let side = &mut self.sides[at];
        while let Some(event) = side.connection.poll_event() {
            if side.consumes
                && let Some((class, bytes)) = credit_of(&event)
            {
                side.connection.handle_command(self.now, ConnectionCommand::Consumed { class, bytes });
            }
            // What is skipped never comes to the stack: its credit is the runner's to return.
            if let ConnectionEvent::Skipped { class, bytes, .. } = event {
                side.connection.handle_command(self.now, ConnectionCommand::Consumed { class, bytes });
            }
            side.events.push_back(event);
        }
    }

    /// What a side writes now, `limit` bytes beyond a record at most.
    pub(crate) fn transmit(&mut self, from: usize, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let any = self.sides[from].connection.poll_transmit(self.now, &mut bytes, limit);
        assert_eq!(any, !bytes.is_empty());
        self.drain(from);
        bytes
    }

    /// Hands bytes to a side as they are.
    pub(crate) fn deliver(&mut self, to: usize, bytes: &[u8]) {
        self.sides[to].connection.handle_bytes(self.now, bytes);
        self.drain(to);
    }

    /// A side writes to the wire; whether it had anything to write. Once it is closed and silent, its stream ends.
    pub(crate) fn write(&mut self, from: usize) -> bool {
        let bytes = self.transmit(from, FLIGHT);
        self.sides[1 - from].wire.extend_from_slice(&bytes);
        let over = self.is_closed(from) && bytes.is_empty() && !self.sides[from].ended;
        self.sides[from].ended |= over;
        !bytes.is_empty() || over
    }

    /// A side reads a random piece of what is on the wire to it; whether there was anything that it wanted.
    pub(crate) fn read(&mut self, to: usize) -> bool {
        let (other_ended, side) = (self.sides[1 - to].ended, &mut self.sides[to]);
        if side.wire.is_empty() {
            if other_ended && !side.ended {
                side.ended = true;
                side.connection.handle_stream_end(self.now, CloseReason::StreamEnded);
                self.drain(to);
                return true;
            }
            return false;
        }
        if side.connection.next_timeout().is_none() {
            side.wire.clear(); // closed: nobody reads any more
            return true;
        }
        if !side.connection.wants_bytes() {
            return false;
        }
        let most = if self.rng.next_u32().is_multiple_of(4) { 8 } else { FLIGHT };
        let count = (self.rng.next_u64() as usize % most + 1).min(side.wire.len());
        let rest = side.wire.split_off(count);
        let piece = core::mem::replace(&mut side.wire, rest);
        self.deliver(to, &piece);
        true
    }

    /// Lets both sides write and read until nothing moves any more. Time stands still.
    pub(crate) fn run(&mut self) {
        self.drain(A);
        self.drain(B);
        while [A, B].map(|side| self.write(side) | self.read(side)).contains(&true) {}
    }

    /// Lets time pass, with all timeouts on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        self.run();
        while let Some(at) = [A, B].iter().filter_map(|side| self.sides[*side].connection.next_timeout()).min() {
            if at > end {
                break;
            }
            self.now.mono = at.max(self.now.mono);
            for side in [A, B] {
                if self.sides[side].connection.next_timeout().is_some_and(|at| at <= self.now.mono) {
                    self.sides[side].connection.handle_timeout(self.now);
                }
            }
            self.run();
        }
        self.now.mono = end;
    }

    pub(crate) fn command(&mut self, at: usize, command: ConnectionCommand) {
        self.sides[at].connection.handle_command(self.now, command);
        self.drain(at);
    }

    pub(crate) fn outbound(&self, from: usize, message: Message) -> Outbound {
        let side = &self.sides[from];
        let charge = side.outbound_budget.charge(Pool::Outbound, cost(message.len())).expect("room for the test");
        let resident = Arc::new(charge.into());
        let owed = side.account.owe(message.len()).expect("no limit");
        Outbound { message, resident, owed }
    }

    pub(crate) fn notify(&mut self, from: usize, message: Message) {
        let outbound = self.outbound(from, message);
        self.command(from, ConnectionCommand::Notify(outbound));
    }

    pub(crate) fn request(&mut self, from: usize, id: u64, message: Message, timeout: Duration) {
        let outbound = self.outbound(from, message);
        self.command(from, ConnectionCommand::Request { id, outbound, timeout });
    }

    pub(crate) fn respond(&mut self, from: usize, id: u64, message: Message) {
        let outbound = self.outbound(from, message);
        self.command(from, ConnectionCommand::Respond { id, outbound });
    }

    pub(crate) fn is_closed(&self, at: usize) -> bool {
        self.sides[at].connection.next_timeout().is_none()
    }

    /// How the sides ended; each exactly once, and with it the last event.
    pub(crate) fn closed(&mut self) -> [Closed; 2] {
        [A, B].map(|at| self.closed_at(at))
    }

    pub(crate) fn closed_at(&mut self, at: usize) -> Closed {
        let events = &mut self.sides[at].events;
        match events.pop_back() {
            Some(ConnectionEvent::Closed(closed)) => {
                assert!(!events.iter().any(|event| matches!(event, ConnectionEvent::Closed(_))), "closed twice");
                closed
            }
            other => panic!("side {at} is not closed: {other:?}"),
        }
    }

    /// Takes the messages that arrived as notifications; nothing else may have happened but heartbeats, waiting for memory and what is counted.
    pub(crate) fn messages(&mut self, at: usize) -> Vec<Message> {
        self.sides[at]
            .events
            .drain(..)
            .filter_map(|event| match event {
                ConnectionEvent::Message { message, .. } => Some(message),
                ConnectionEvent::Stats(_)
                | ConnectionEvent::Heartbeat(_)
                | ConnectionEvent::Waits(_)
                | ConnectionEvent::Packed { .. } => None,
                other => panic!("side {at}: {other:?}"),
            })
            .collect()
    }

    /// Takes the ends of requests.
    pub(crate) fn responses(&mut self, at: usize) -> Vec<(u64, Result<Message, RequestError>)> {
        let events = core::mem::take(&mut self.sides[at].events);
        let ends = events.into_iter().filter_map(|event| match event {
            ConnectionEvent::Response { id, result } => Some((id, result.map(|(message, _)| message))),
            _ => None,
        });
        ends.collect()
    }

    pub(crate) fn established(&self, at: usize) -> bool {
        self.sides[at].events.iter().any(|event| matches!(event, ConnectionEvent::Established(_)))
    }
}

/// The credit that an event must give back once it is consumed.
pub(crate) fn credit_of(event: &ConnectionEvent) -> Option<(Class, usize)> {
    match event {
        ConnectionEvent::Message { message, charge }
        | ConnectionEvent::Request { message, charge, .. }
        | ConnectionEvent::Response { result: Ok((message, charge)), .. } => {
            Some((message.command.class(), charge.bytes()))
        }
        _ => None,
    }
}

/// A message of `len` bytes, a third of them in the head, that tells its `number` and is like no other.
pub(crate) fn message(command: Command, number: u64, len: usize) -> Message {
    // Blocks of different content, so that none can be missing or in the wrong place unnoticed; cheap, since it is much.
    let blocks = (0..len.max(8).div_ceil(1024) as u64).flat_map(|block| {
        let mut bytes = [(number ^ block) as u8; 1024];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes[8..16].copy_from_slice(&block.to_be_bytes());
        bytes
    });
    let bytes: Bytes = blocks.take(len.max(8)).collect();
    let head = bytes.slice(..bytes.len().div_ceil(3).max(8));
    let body = bytes.slice(head.len()..);
    Message { command, head, body: if number.is_multiple_of(2) || !body.is_empty() { Some(body) } else { None } }
}

/// The number of a message made by [`message`].
pub(crate) fn number(message: &Message) -> u64 {
    u64::from_be_bytes(*message.head.first_chunk().expect("the head begins with the number"))
}
