//! The body of the fuzz target `transport_connection`: everything behind the handshake, against a peer that has its keys
//! and a runner that asks for anything. It stands here because it makes a connection without a handshake.

use core::time::Duration;
use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use peerage_core::{
    Budget, Charge, Class, CloseReason, Command, Connection, ConnectionCommand, ConnectionEvent, Layer, Message,
    NetworkId, NodeId, Now, Outbound, PerClass, Pool, SecretRng, Seed, Timestamp, UnixMillis,
};
use peerage_wire::{Envelope, Frame, FrameReader, Limits, Magic, Reassembler, RecordKind, encode_frame, payload};

use super::{
    ConnectionConfig, SecureConnection, State,
    commands::{self, Answer, Beat, Grant, MAX_HEARTBEAT_DATA},
    credit::{cost, window},
    handshake::{Channel, Pattern, Secured},
    open::{Events, Open},
    packing::COMPRESSION,
    sealed::{Opener, Sealer},
};
use crate::{
    fuzz::input::Input,
    proto::{
        keypair::Keypair,
        noise::{CipherState, Split},
    },
};

const ASK: Command = Command::new(Layer::Application, 0, Class::Signal);
const ITEM: Command = Command::new(Layer::Application, 0, Class::Gossip);
const BLOCK: Command = Command::new(Layer::Application, 0, Class::Bulk);
/// Named by no table.
const UNKNOWN: Command = Command::new(Layer::Application, 9, Class::Bulk);
const LIMITS: &[(Command, u32)] = &[(ASK, 500), (ITEM, 20_000), (BLOCK, 60_000)];

/// Few enough that a short input gets past some.
const REKEY: u64 = 4;

/// A connection that stands, the peer at its other end, and what they must agree about.
struct Stage {
    connection: SecureConnection,
    limits: Arc<Limits>,
    budget: Budget,
    now: Now,
    /// The peer's keys, and what it puts together of what it hears.
    sealer: Sealer,
    opener: Opener,
    hears: Reassembler,
    /// Messages that the runner was given and has not consumed yet.
    held: Vec<(Class, usize, Charge)>,
    /// Requests of the runner's that have no answer yet.
    open: BTreeSet<u64>,
    requests: u64,
    closed: bool,
}

impl Stage {
    fn new(outbound: bool, compresses: bool, cap: usize) -> Self {
        let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(1));
        let limits = Arc::new(Limits::new(&[commands::LIMITS, LIMITS]).with_public(&[&[ITEM, BLOCK]]));
        let budget = Budget::new(cap);
        let keypair = Arc::new(Keypair::from_seed(&[1; 32]));
        let network = NetworkId::default();
        let mut config =
            ConnectionConfig::new(keypair, network, Magic::DEV, Arc::clone(&limits), budget.clone(), &mut rng);
        config.rekey_every = REKEY;
        let config = Arc::new(config);
        let key = |number| CipherState::initialize_key(&[number; 32]);
        let keys = Split { send: key(1), receive: key(2), handshake_hash: [0; 32], remote_static: [0; 32] };
        let features = if compresses { COMPRESSION } else { 0 };
        let channel = Channel::Noise { pattern: Pattern::Xx, keys };
        let secured = Secured { channel, peer: NodeId::default(), features, listen: Vec::new(), early: None };
        let open = Open::new(&config, outbound, secured, Bytes::new(), Timestamp::ZERO, &mut rng);
        let connection = SecureConnection {
            config,
            outbound,
            remote: ([10, 0, 0, 1], 1).into(),
            rng,
            state: State::Open(Box::new(open)),
            output: Vec::new(),
            events: Events::new(),
            closed: None,
            account: None,
        };
        let mut hears = Reassembler::new(Arc::clone(&limits), Budget::default());
        if compresses {
            hears.unpack_bodies();
        }
        Self {
            connection,
            limits,
            budget,
            now: Now::default(),
            sealer: Sealer::new(key(2), REKEY),
            opener: Opener::new(key(1), REKEY),
            hears,
            held: Vec::new(),
            open: BTreeSet::new(),
            requests: 0,
            closed: false,
        }
    }

    /// The peer seals whatever it likes and sends it in pieces.
    fn peer_seals(&mut self, kind: RecordKind, plaintext: &[u8], step: usize) {
        let mut record = Vec::new();
        self.sealer.seal(&mut record, kind, |out, _| out.extend(plaintext)).expect("a fresh key");
        self.peer_sends(&record, step);
    }

    fn peer_frames(&mut self, message: &Message, envelope: Envelope) {
        let mut plaintext = Vec::new();
        encode_frame(message, envelope, &mut plaintext);
        self.peer_seals(RecordKind::Data, &plaintext, 1 << 16);
    }

    /// A message whose lengths fit, which mutations alone seldom hit.
    fn peer_says(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let command = [ASK, ITEM, BLOCK, UNKNOWN][usize::from(choice) % 4];
        let envelope = match choice >> 4 {
            0 => Envelope::Request(input.byte().into()),
            1..=3 => Envelope::Response(input.byte().into()),
            _ => Envelope::Notification,
        };
        self.peer_frames(&Message::new(command, input.chunk().to_vec()), envelope);
    }

    /// A message of the transport's own whose lengths fit.
    fn peer_controls(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let (command, head) = if choice.is_multiple_of(3) {
            let (class, bytes) = (input.byte(), u32::from(input.number()) << (choice >> 4));
            (commands::CREDIT, payload::to_bytes(&Grant { class, bytes }))
        } else {
            let (nonce, data) = (u64::from(input.number()), input.chunk().to_vec());
            if choice % 3 == 1 {
                (commands::PING, payload::to_bytes(&Beat { nonce, data }))
            } else {
                let wall = UnixMillis(u64::from(choice) << (choice >> 2));
                (commands::PONG, payload::to_bytes(&Answer { nonce, wall, data }))
            }
        };
        self.peer_frames(&Message::new(command, head), Envelope::Notification);
    }

    fn peer_sends(&mut self, bytes: &[u8], step: usize) {
        for piece in bytes.chunks(step) {
            // A runner does not read while the connection wants nothing, but what it has read it hands in.
            self.connection.handle_bytes(self.now, piece);
        }
    }

    fn outbound(&self, command: Command, len: usize) -> Option<Outbound> {
        let message = Message::with_body(command, vec![7; len % 5], vec![9; len]);
        let resident = Arc::new(self.budget.charge(Pool::Outbound, cost(message.len())).ok()?.into());
        let owed = Budget::account(usize::MAX).owe(1).ok()?;
        Some(Outbound { message, resident, owed })
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        // Each timeout must make progress: a timer that stays due would spin.
        for _ in 0..50 {
            if self.connection.next_timeout().is_none_or(|due| due > self.now.mono) {
                return;
            }
            self.connection.handle_timeout(self.now);
            self.transmit();
        }
        panic!("a timeout stays due");
    }

    fn consume(&mut self, all: bool) {
        while let Some((class, bytes, charge)) = self.held.pop() {
            drop(charge);
            self.connection.handle_command(self.now, ConnectionCommand::Consumed { class, bytes });
            if !all {
                return;
            }
        }
    }

    /// The runner's half: takes events and checks each against what may happen.
    fn events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            assert!(!self.closed, "nothing follows the end: {event:?}");
            match event {
                ConnectionEvent::Established(_) | ConnectionEvent::Early { .. } => panic!("it stood before"),
                ConnectionEvent::Message { message, charge } | ConnectionEvent::Request { message, charge, .. } => {
                    self.arrived(&message, charge);
                }
                ConnectionEvent::Response { id, result } => {
                    assert!(self.open.remove(&id), "a request ends once");
                    if let Ok((message, charge)) = result {
                        self.arrived(&message, charge);
                    }
                }
                ConnectionEvent::Heartbeat(data) => assert!((1..=MAX_HEARTBEAT_DATA).contains(&data.len())),
                ConnectionEvent::Skipped { count, class, bytes } => {
                    assert!(count > 0 || bytes > 0);
                    self.connection.handle_command(self.now, ConnectionCommand::Consumed { class, bytes });
                }
                ConnectionEvent::Stats(_) | ConnectionEvent::Waits(_) => {}
                ConnectionEvent::Unsent { count, .. } => assert!(count > 0, "nothing is no news"),
                ConnectionEvent::Packed { bytes, packed, .. } => {
                    assert!(packed > 0 && packed < bytes, "nothing is saved")
                }
                ConnectionEvent::Closed(_) => self.closed = true,
            }
        }
        if self.closed {
            assert!(self.open.is_empty(), "requests without an end");
            assert!(self.connection.next_timeout().is_none() && !self.connection.wants_bytes());
        }
    }

    fn arrived(&mut self, message: &Message, charge: Charge) {
        let class = message.command.class();
        assert!(self.limits.knows(message.command) && class != Class::Control);
        assert!(message.len() <= self.limits.of(message.command));
        assert_eq!(charge.bytes(), cost(message.len()), "what the sender's credit paid");
        self.held.push((class, charge.bytes(), charge));
        let mut held = PerClass::from_fn(|_| 0);
        self.held.iter().for_each(|(class, bytes, _)| held[*class] += bytes);
        assert!(Class::ALL.into_iter().all(|class| held[class] <= window(class)), "more than the window: {held:?}");
    }

    /// The peer reads all that is sent: sealed records whose frames make messages within their limits.
    fn transmit(&mut self) {
        let mut out = Vec::new();
        while self.connection.poll_transmit(self.now, &mut out, 1 << 16) {}
        let mut input = out.as_slice();
        while let Some((kind, plaintext)) = self.opener.read(&mut input).expect("what we seal opens") {
            match kind {
                RecordKind::Close => assert_eq!(plaintext.len(), 1),
                RecordKind::Data => {
                    for frame in FrameReader::new(plaintext) {
                        self.hears.accept(frame.expect("what we send is well-formed")).expect("and in order");
                    }
                }
                _ => panic!("{kind:?} from a connection that stands"),
            }
        }
        self.events();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        match op % 16 {
            0 | 1 => self.peer_seals(RecordKind::Data, input.chunk(), 1 << 16),
            2 => self.peer_says(input),
            3 => self.peer_controls(input),
            4 => {
                let step = usize::from(input.byte()) + 1;
                self.peer_seals(RecordKind::Data, input.chunk(), step);
            }
            5 => {
                let kind = RecordKind::ALL[usize::from(input.byte()) % RecordKind::ALL.len()];
                self.peer_seals(kind, input.chunk(), 1 << 16);
            }
            6 => self.peer_sends(input.chunk(), 1 << 16),
            7 => self.pass(Duration::from_millis(10 * u64::from(input.number()))),
            8 => self.pass(Duration::from_millis(input.byte().into())),
            9 | 10 => {
                let command = [ASK, ITEM, BLOCK, commands::PING][usize::from(input.byte()) % 4];
                let Some(outbound) = self.outbound(command, input.number().into()) else { return };
                let asks = op % 16 == 10;
                let id = self.requests;
                self.connection.handle_command(
                    self.now,
                    match input.byte() {
                        seconds if asks => {
                            self.requests += 1;
                            if !self.closed {
                                self.open.insert(id);
                            }
                            ConnectionCommand::Request { id, outbound, timeout: Duration::from_secs(seconds.into()) }
                        }
                        id if id > 0 => ConnectionCommand::Respond { id: id.into(), outbound },
                        _ => ConnectionCommand::Notify(outbound),
                    },
                );
            }
            11 => self.consume(true),
            12 => self.consume(false),
            13 if op & 0x40 != 0 => {
                let bytes = usize::from(input.number());
                self.connection.handle_command(self.now, ConnectionCommand::Shed { bytes });
            }
            13 => {
                let data = Bytes::copy_from_slice(input.chunk());
                self.connection.handle_command(self.now, ConnectionCommand::Heartbeat(data));
            }
            14 if op & 0x40 != 0 => {
                let listens = input.byte().is_multiple_of(2);
                self.connection.handle_command(self.now, ConnectionCommand::Listen(listens));
                assert!(listens || !self.connection.wants_bytes());
            }
            14 => self.connection.handle_command(self.now, ConnectionCommand::Close(CloseReason::Shutdown)),
            _ => self.connection.handle_stream_end(self.now, CloseReason::StreamError),
        }
        self.events();
        if op & 0x80 == 0 {
            self.transmit();
        }
    }
}

/// A connection that stands; see the module.
pub(crate) fn open(data: &[u8]) {
    let mut input = Input::new(data);
    let sides = input.byte();
    let (outbound, compresses) = (sides.is_multiple_of(2), sides & 2 != 0);
    let cap = (usize::from(input.byte()) + 1) << 10;
    let mut stage = Stage::new(outbound, compresses, cap);
    while !input.is_empty() && !stage.closed {
        stage.step(&mut input);
        assert!(stage.budget.report().resident <= cap);
    }
    stage.connection.handle_command(stage.now, ConnectionCommand::Close(CloseReason::Shutdown));
    stage.transmit();
    assert!(stage.closed, "it ends when it is told to");
    let Stage { connection, held, budget, .. } = stage;
    drop((connection, held));
    assert_eq!(budget.report().resident, 0, "what is dropped is given back");
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    use super::commands::{CREDIT, PING};
    use peerage_wire::Fragmenter;

    let frame = |message: &Message, envelope| {
        let mut out = Vec::new();
        encode_frame(message, envelope, &mut out);
        out
    };
    let op = |op: u8, chunk: &[u8]| Input::with_chunks(&[op], &[chunk]);
    let item = Message::with_body(ITEM, vec![1, 2], vec![3; 30]);
    let whole = op(0, &frame(&item, Envelope::Notification));
    let asked = op(0, &frame(&Message::new(ASK, vec![1]), Envelope::Request(300)));
    let unknown = op(0, &frame(&Message::new(UNKNOWN, vec![]), Envelope::Notification));
    let beat = Beat { nonce: 300, data: vec![1; 8] };
    let ping = op(0, &frame(&Message::new(PING, payload::to_bytes(&beat)), Envelope::Notification));
    let grant = Grant { class: Class::Gossip as u8, bytes: 256 + 304 };
    let grant = op(0, &frame(&Message::new(CREDIT, payload::to_bytes(&grant)), Envelope::Notification));
    let mut cut = Fragmenter::new(Message::with_body(BLOCK, vec![5; 20], vec![6; 60]), Envelope::Notification);
    let mut pieces = Vec::new();
    while !cut.is_done() {
        let mut record = Vec::new();
        cut.fill(40, &mut record);
        pieces.extend(op(4, &[]).into_iter().take(1).chain([16]).chain(op(0, &record).into_iter().skip(1)));
    }
    // One byte, 1,139 times the same one, five more.
    let packed = &[0x1f, 7, 1, 0, 255, 255, 255, 255, 100, 0x50, 1, 2, 3, 4, 5];
    let mut compressed = Vec::new();
    Frame::Packed { command: BLOCK, envelope: Envelope::Notification, head: &[5], body_len: 1145, packed }
        .encode(&mut compressed);
    let compressed = op(0, &compressed);
    let notify_long = [9, 2, 8, 0, 0];
    let notify = [9, 1, 1, 44, 0];
    let ask = [10, 0, 0, 9, 5];
    let answer = op(0, &frame(&Message::new(ASK, vec![8]), Envelope::Response(0)));
    let fields = [2, 0x40, 3, 1, 2, 3, 2, 0, 9, 1, 7, 3, 1, 0, 5, 2, 8, 8, 3, 0, 3, 1, 0];
    vec![
        ("transport_connection", "fields", [&[0, 255], &fields[..]].concat()),
        ("transport_connection", "messages", [&[0, 255], &whole[..], &asked, &unknown, &ping, &[11]].concat()),
        ("transport_connection", "fragments", [&[1, 255], &pieces[..], &[12, 7, 0, 200]].concat()),
        (
            "transport_connection",
            "no-room",
            [&[1, 0], &whole[..], &whole, &whole, &whole, &[8, 60, 11, 8, 60]].concat(),
        ),
        ("transport_connection", "compressed", [&[2, 255], &compressed[..], &notify_long, &[11]].concat()),
        ("transport_connection", "request", [&[0, 255], &ask[..], &answer, &ask, &[7, 2, 200]].concat()),
        ("transport_connection", "credit", [&[0, 255], &notify[..], &grant, &[7, 40, 0]].concat()),
        ("transport_connection", "refused", [&[0, 255], &op(6, b"\xf7pgD\x01\0\0\x03\0\0\0\x01\x05")[..]].concat()),
    ]
}
