//! The attacker's tools: a raw stream, a handshake made step by step, records sealed by hand.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
};

use peerage_core::*;
use peerage_transport::proto::{
    connection::ConnectionConfig,
    keypair::Keypair,
    noise::{
        HandshakeState, Role, Split,
        identity::{Claim, Hello, open_payload, read_proof, seal_payload},
    },
};
use peerage_wire::{
    Envelope, Fragmenter, Frame, FrameReader, Magic, Preamble, RecordDecoder, RecordKind, SealedDecoder, begin_sealed,
    decode_reason, encode_frame, finish_sealed,
    limits::{MAX_PLAINTEXT, PREAMBLE, RECORD_HEADER},
    open_plaintext, put_record,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::{
    stage::in_time,
    victim::{ECHO, NETWORK, Plan, VICTIM, configuration, keypair},
};

/// A record in clear of the stories' network.
pub(crate) fn record(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_record(&mut bytes, Magic::DEV, kind, |out| out.extend_from_slice(payload));
    bytes
}

/// What somebody reads who is refused in clear.
pub(crate) fn refusal(reason: CloseReason) -> Vec<u8> {
    record(RecordKind::Refuse, &[reason.code()])
}

/// What a correct initiator says about itself in clear.
pub(crate) const PREAMBLE_VALUE: Preamble =
    Preamble { version_min: 1, version_max: 1, network: NETWORK, pattern: 1, suite: 1, flags: 0 };

pub(crate) fn preamble(value: &Preamble) -> Vec<u8> {
    record(RecordKind::Preamble, &value.encode())
}

/// A TCP stream and nothing else.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self(in_time("a connection", TcpStream::connect(addr)).await.expect("somebody listens"))
    }

    /// The same, coming from an address of one's own choice in 127.0.0.0/8.
    pub(crate) async fn connect_from(from: Ipv4Addr, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("all of 127.0.0.0/8 is ours");
        Self(in_time("a connection", socket.connect(addr)).await.expect("somebody listens"))
    }

    /// Sends, whether anybody is still there or not.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _gone = in_time("room in the socket", self.0.write_all(bytes)).await;
    }

    /// Sends byte by byte until the other side ends the stream.
    pub(crate) async fn drip(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let mut told = [0; 1];
            let ended = tokio::time::timeout(std::time::Duration::from_millis(40), self.0.peek(&mut told)).await;
            if ended.is_ok() {
                return;
            }
            self.send(&[*byte]).await;
        }
        panic!("{} bytes did not try its patience", bytes.len());
    }

    /// Everything that it is told until the other side ends the stream, however it does that.
    pub(crate) async fn told(&mut self) -> Vec<u8> {
        let mut told = Vec::new();
        let ended = in_time("the end of the stream", self.0.read_to_end(&mut told)).await;
        if let Err(error) = ended {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
        told
    }

    /// The next record in clear.
    pub(crate) async fn record(&mut self) -> (RecordKind, Vec<u8>) {
        let mut decoder = RecordDecoder::new(Magic::DEV);
        let mut byte = [0; 1];
        loop {
            in_time("a record", self.0.read_exact(&mut byte)).await.expect("somebody is there");
            if let Some(record) = decoder.read(&mut &byte[..]).expect("well-formed") {
                return (record.kind, record.payload().to_vec());
            }
        }
    }
}

/// What somebody signs in the handshake that `noise` is in.
pub(crate) fn claim(noise: &HandshakeState) -> Claim {
    Claim { role: noise.role(), handshake_hash: *noise.handshake_hash(), static_key: *noise.local_static() }
}

/// What a correct node says about itself once it is authenticated.
pub(crate) fn hello() -> Hello {
    Hello::new(1 << 56, Vec::new()).expect("no address")
}

/// A handshake of the dialling side, step by step.
pub(crate) struct Initiator {
    pub(crate) raw: Raw,
    pub(crate) noise: HandshakeState,
    pub(crate) keypair: Keypair,
    /// The preamble and message 1.
    pub(crate) first: Vec<u8>,
}

impl Initiator {
    /// Sends the preamble and message 1.
    pub(crate) async fn begin(mut raw: Raw, keypair: Keypair) -> Self {
        let config = configuration(keypair, Budget::default());
        let mut first = preamble(&PREAMBLE_VALUE);
        let prologue = [b"peerage-v1", &*first].concat();
        let mut rng = SecretRng::from_os();
        let mut noise = HandshakeState::xx(Role::Initiator, &prologue, config.static_key.clone(), &mut rng);
        put_record(&mut first, Magic::DEV, RecordKind::Handshake, |out| noise.write_message(&[], out).expect("first"));
        raw.send(&first).await;
        Self { raw, noise, keypair: keypair_of(config), first }
    }

    /// Takes message 2.
    pub(crate) async fn answered(&mut self) {
        let (kind, second) = self.raw.record().await;
        assert_eq!(kind, RecordKind::Handshake);
        let remote = read_proof(&mut self.noise, &second, self.keypair.node_id()).expect("an honest victim");
        assert_eq!(remote.node_id, super::victim::keypair(VICTIM).node_id());
    }

    /// The payload of an honest message 3.
    pub(crate) fn proof(&self) -> Vec<u8> {
        seal_payload(&self.keypair, &claim(&self.noise), &hello())
    }

    /// Message 3 with any payload, as a record.
    pub(crate) fn third(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        self.noise.write_message(payload, &mut message).expect("it is our turn");
        record(RecordKind::Handshake, &message)
    }

    /// The keys stand, as far as this side is concerned.
    pub(crate) fn keys(self) -> Hand {
        let id = self.keypair.node_id();
        Hand::new(self.raw, self.noise.split().expect("complete"), id)
    }
}

fn keypair_of(config: ConnectionConfig) -> Keypair {
    std::sync::Arc::into_inner(config.keypair).expect("nobody else has it")
}

/// A handshake of the dialled side, up to where message 2 is due.
pub(crate) struct Responder {
    pub(crate) raw: Raw,
    pub(crate) noise: HandshakeState,
}

impl Responder {
    /// Waits for somebody who dials, and takes the preamble and message 1.
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = in_time("somebody who dials", listener.accept()).await.expect("a stream");
        let mut raw = Raw(stream);
        let mut first = [0; RECORD_HEADER + PREAMBLE];
        in_time("a preamble", raw.0.read_exact(&mut first)).await.expect("a whole preamble");
        let config = configuration(keypair(1), Budget::default());
        let prologue = [b"peerage-v1", &first[..]].concat();
        let mut noise =
            HandshakeState::xx(Role::Responder, &prologue, config.static_key.clone(), &mut SecretRng::from_os());
        let (kind, message) = raw.record().await;
        assert_eq!(kind, RecordKind::Handshake);
        assert_eq!(noise.read_message(&message), Ok(Vec::new()), "message 1 says nothing");
        Self { raw, noise }
    }

    /// Sends message 2 with any payload.
    pub(crate) async fn second(&mut self, payload: &[u8]) {
        let mut message = Vec::new();
        self.noise.write_message(payload, &mut message).expect("it is our turn");
        self.raw.send(&record(RecordKind::Handshake, &message)).await;
    }

    /// Takes message 3: what the dialling side says about itself, as it stood there, and who it proves to be.
    pub(crate) async fn third(&mut self) -> (Vec<u8>, NodeId) {
        let hash = *self.noise.handshake_hash();
        let (_, message) = self.raw.record().await;
        let payload = self.noise.read_message(&message).expect("message 3");
        let static_key = *self.noise.remote_static().expect("it was in message 3");
        let claim = Claim { role: Role::Initiator, handshake_hash: hash, static_key };
        let remote = open_payload(&payload, &claim, keypair(1).node_id()).expect("an honest initiator");
        (payload, remote.node_id)
    }
}

/// What an attacker under keys is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Frame {
        command: Command,
        envelope: Envelope,
        head: Vec<u8>,
    },
    /// A CLOSE record.
    Close(CloseReason),
    /// The stream ended.
    End,
}

/// An attacker under keys: it seals whatever it wants.
pub(crate) struct Hand {
    pub(crate) raw: Raw,
    pub(crate) id: NodeId,
    pub(crate) keys: Split,
    decoder: SealedDecoder,
    told: VecDeque<Told>,
    next: u64,
}

impl Hand {
    pub(crate) fn new(raw: Raw, keys: Split, id: NodeId) -> Self {
        Self { raw, id, keys, decoder: SealedDecoder::new(), told: VecDeque::new(), next: 1 << 40 }
    }

    /// Shakes hands with the victim at `addr` like an honest node, as the identity `number`.
    pub(crate) async fn shake(addr: SocketAddr, number: u8) -> Self {
        Self::shake_on(Raw::connect(addr).await, number).await
    }

    pub(crate) async fn shake_on(raw: Raw, number: u8) -> Self {
        let mut initiator = Initiator::begin(raw, keypair(number)).await;
        initiator.answered().await;
        let proof = initiator.proof();
        let third = initiator.third(&proof);
        initiator.raw.send(&third).await;
        initiator.keys()
    }

    /// A sealed record of this kind and plaintext, as long as it may be or longer.
    pub(crate) fn sealed(&mut self, kind: RecordKind, plaintext: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        let start = begin_sealed(&mut record, kind);
        record.extend_from_slice(plaintext);
        let body = finish_sealed(&mut record, start);
        let tag = self.keys.send.encrypt_with_ad(&[], &mut record[body..]).expect("a fresh key");
        record.extend_from_slice(&tag);
        record
    }

    pub(crate) async fn send(&mut self, kind: RecordKind, plaintext: &[u8]) {
        let record = self.sealed(kind, plaintext);
        self.raw.send(&record).await;
    }

    pub(crate) async fn send_frames(&mut self, frames: &[Frame<'_>]) {
        let mut plaintext = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut plaintext));
        self.send(RecordKind::Data, &plaintext).await;
    }

    /// Any message up to the length of a record, whole.
    pub(crate) async fn send_message(&mut self, message: &Message, envelope: Envelope) {
        let mut plaintext = Vec::new();
        encode_frame(message, envelope, &mut plaintext);
        self.send(RecordKind::Data, &plaintext).await;
    }

    /// A notification of any length, all of its records or all but the last.
    pub(crate) async fn say(&mut self, message: Message, whole: bool) {
        let mut fragments = Fragmenter::new(message, Envelope::Notification);
        while !fragments.is_done() {
            let mut frames = Vec::new();
            fragments.fill(MAX_PLAINTEXT, &mut frames);
            if whole || !fragments.is_done() {
                self.send(RecordKind::Data, &frames).await;
            }
        }
    }

    pub(crate) async fn notify(&mut self, message: &Message) {
        self.send_message(message, Envelope::Notification).await;
    }

    /// The next thing that the victim says.
    pub(crate) async fn hear(&mut self) -> Told {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(told) = self.told.pop_front() {
                return told;
            }
            let count = match in_time("a word of the victim", self.raw.0.read(&mut buffer)).await {
                Ok(0) | Err(_) => return Told::End,
                Ok(count) => count,
            };
            let mut input = &buffer[..count];
            while let Some(body) = self.decoder.read(&mut input).expect("well-formed") {
                let plaintext = self.keys.receive.decrypt_with_ad(&[], body).expect("authentic");
                match open_plaintext(plaintext).expect("well-formed") {
                    (RecordKind::Data, frames) => {
                        self.told.extend(FrameReader::new(frames).filter_map(
                            |frame| match frame.expect("well-formed") {
                                Frame::Whole { command, envelope, head, .. } => {
                                    Some(Told::Frame { command, envelope, head: head.to_vec() })
                                }
                                _ => None,
                            },
                        ))
                    }
                    (kind, plaintext) => {
                        assert_eq!(kind, RecordKind::Close);
                        self.told.push_back(Told::Close(decode_reason(kind, plaintext).expect("one byte")));
                    }
                }
            }
        }
    }

    /// The reason that it is told in the end; `None` if the stream ends without a word.
    pub(crate) async fn told_why(&mut self) -> Option<CloseReason> {
        loop {
            match self.hear().await {
                Told::Close(reason) => {
                    assert_eq!(self.hear().await, Told::End, "nothing follows a farewell");
                    return Some(reason);
                }
                Told::End => return None,
                Told::Frame { .. } => {}
            }
        }
    }

    /// The reason in the CLOSE that must come, and what comes before it skipped.
    pub(crate) async fn hear_farewell(&mut self) -> CloseReason {
        loop {
            match self.hear().await {
                Told::Close(reason) => return reason,
                Told::End => panic!("the stream ended without a word"),
                Told::Frame { .. } => {}
            }
        }
    }

    /// Listens for a moment: a farewell or the end of the stream, if one of them comes.
    pub(crate) async fn told_meanwhile(&mut self) -> Option<Told> {
        let listening = async {
            loop {
                match self.hear().await {
                    Told::Frame { .. } => {}
                    told => return told,
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_millis(10), listening).await.ok()
    }

    /// Asks and is answered: the connection stands, and the stack behind it works.
    pub(crate) async fn is_served(&mut self) {
        self.next += 1;
        let envelope = Envelope::Request(self.next);
        let words = self.next.to_be_bytes().to_vec();
        self.send_message(&Message::new(ECHO, words.clone()), envelope).await;
        let answer = Told::Frame { command: ECHO, envelope: Envelope::Response(self.next), head: words };
        loop {
            match self.hear().await {
                told if told == answer => return,
                Told::Frame { .. } => {}
                other => panic!("the connection ended: {other:?}"),
            }
        }
    }
}

/// A victim, and somebody honest who is connected to it and must be served whatever happens.
pub(crate) async fn victim_and_friend(plan: Plan) -> (super::victim::Victim, Hand) {
    let victim = plan.start().await;
    let mut friend = Hand::shake(victim.addr, FRIEND).await;
    friend.is_served().await;
    (victim, friend)
}

/// The identity of the honest one, and of the attacker.
pub(crate) const FRIEND: u8 = 3;
pub(crate) const ATTACKER: u8 = 66;
