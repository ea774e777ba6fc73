//! The other side of a connection, made by hand, so that it can say anything at any time.

use std::sync::Arc;

use peerage_core::{Budget, NetworkId, SecretRng, Seed};
use peerage_wire::{
    Limits, Magic, Preamble, RecordKind, begin_sealed, finish_sealed,
    limits::{PREAMBLE, RECORD_HEADER},
    put_record,
};

use super::super::{ConnectionConfig, handshake::Pattern};
use crate::proto::{
    keypair::Keypair,
    noise::{
        CipherState, DhKeypair, HandshakeState, Role,
        identity::{Hello, read_first_message, read_proof, write_first_proof},
    },
};

/// The two nodes; `number` makes all that is secret.
pub(super) fn config(number: u8, limits: &[(peerage_core::Command, u32)], budget: Budget) -> ConnectionConfig {
    let mut rng = secrets(number);
    let keypair = Arc::new(Keypair::from_seed(&[number; 32]));
    let limits = Arc::new(Limits::new(&[limits]));
    ConnectionConfig::new(keypair, NetworkId::from_bytes([9; 32]), Magic::DEV, limits, budget, &mut rng)
}

pub(super) fn secrets(number: u8) -> SecretRng {
    SecretRng::insecure_from_seed(&Seed::from_u64(number.into()).derive("secrets"))
}

/// A record in clear.
pub(super) fn clear(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    put_record(&mut record, Magic::DEV, kind, |out| out.extend_from_slice(payload));
    record
}

pub(super) fn preamble(pattern: Pattern) -> Vec<u8> {
    let network = NetworkId::from_bytes([9; 32]);
    let preamble = Preamble { version_min: 1, version_max: 1, network, pattern: pattern as u8, suite: 1, flags: 0 };
    clear(RecordKind::Preamble, &preamble.encode())
}

/// The other side, before its keys stand and after.
pub(super) struct Hand {
    keypair: Keypair,
    noise: Option<HandshakeState>,
    send: Option<CipherState>,
}

impl Hand {
    fn new(noise: HandshakeState) -> Self {
        Self { keypair: Keypair::from_seed(&[2; 32]), noise: Some(noise), send: None }
    }

    /// It dials; in IK somebody with this key.
    pub(super) fn dialling(pattern: Pattern, known: &[u8; 32]) -> Self {
        let prologue = [&b"peerage-v1"[..], &preamble(pattern)].concat();
        let mut rng = secrets(2);
        let own = DhKeypair::generate(&mut rng);
        Self::new(match pattern {
            Pattern::Xx => HandshakeState::xx(Role::Initiator, &prologue, own, &mut rng),
            Pattern::Ik => HandshakeState::ik_initiator(&prologue, own, *known, &mut rng),
        })
    }

    /// It is dialled with these first bytes, preamble and message 1, and has read them.
    pub(super) fn dialled(pattern: Pattern, own: DhKeypair, said: &[u8]) -> Self {
        let (preamble, first) = said.split_at(RECORD_HEADER + PREAMBLE);
        let prologue = [b"peerage-v1", preamble].concat();
        let first = &first[RECORD_HEADER..];
        let mut rng = secrets(2);
        match pattern {
            Pattern::Xx => {
                let mut hand = Self::new(HandshakeState::xx(Role::Responder, &prologue, own, &mut rng));
                read_first_message(hand.noise(), first).expect("message 1");
                hand
            }
            Pattern::Ik => {
                let mut hand = Self::new(HandshakeState::ik_responder(&prologue, own, &mut rng));
                let id = hand.keypair.node_id();
                read_proof(hand.noise(), first, id).expect("message 1");
                hand
            }
        }
    }

    fn noise(&mut self) -> &mut HandshakeState {
        self.noise.as_mut().expect("the handshake is under way")
    }

    /// Message 1 of XX.
    pub(super) fn say_first(&mut self) -> Vec<u8> {
        self.say_first_and(&[])
    }

    /// The same with words, which have no place in it.
    pub(super) fn say_first_and(&mut self, words: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        self.noise().write_message(words, &mut message).expect("its turn");
        clear(RecordKind::Handshake, &message)
    }

    /// Any other message.
    pub(super) fn prove(&mut self, version: u64) -> Vec<u8> {
        self.prove_and_say(version, &[])
    }

    /// The same with early words, which have a place in message 1 of IK alone.
    pub(super) fn prove_and_say(&mut self, version: u64, words: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        let hello = Hello::new(version << 56, Vec::new()).expect("no address");
        let Self { keypair, noise, .. } = self;
        let noise = noise.as_mut().expect("under way");
        write_first_proof(noise, keypair, &hello, words, &mut message).expect("its turn");
        clear(RecordKind::Handshake, &message)
    }

    /// Hears a message that proves who said it, at the beginning of `bytes`.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let (header, rest) = bytes.split_at(RECORD_HEADER);
        let length = u32::from_be_bytes(header[8..].try_into().expect("four bytes")) as usize;
        let id = self.keypair.node_id();
        read_proof(self.noise(), &rest[..length], id).expect("a proof");
    }

    /// The handshake is over on this side.
    pub(super) fn split(&mut self) {
        let noise = self.noise.take().expect("the handshake is under way");
        self.send = Some(noise.split().expect("the last message was written or read").send);
    }

    /// A record under the keys, if they stand, else in clear.
    pub(super) fn record(&mut self, kind: RecordKind, payload: &[u8]) -> Vec<u8> {
        let Some(cipher) = &mut self.send else { return clear(kind, payload) };
        let mut record = Vec::new();
        let start = begin_sealed(&mut record, kind);
        record.extend_from_slice(payload);
        let body = finish_sealed(&mut record, start);
        let tag = cipher.encrypt_with_ad(&[], &mut record[body..]).expect("a fresh key");
        record.extend_from_slice(&tag);
        record
    }
}
