//! Who sees through the encryption: the keys of both directions, from the secrets of the side that dialled.

use peerage_core::{SecretRng, Seed};
use peerage_transport::proto::noise::{
    CipherState, HandshakeState, Role, Split,
    identity::{Hello, read_proof, write_proof},
};
use peerage_wire::{
    RecordKind, SealedDecoder,
    limits::{PREAMBLE, RECORD_HEADER},
    open_plaintext,
};

use crate::harness::{A, B, Pair};

/// Reads the sealed records of one direction as its receiver will.
pub(super) struct Eyes {
    cipher: CipherState,
    decoder: SealedDecoder,
    rekey_every: u64,
    /// Bytes read so far.
    offset: u64,
}

/// A sealed record that was written.
pub(super) struct Seen {
    pub(super) kind: RecordKind,
    pub(super) plaintext: Vec<u8>,
    /// Where it ends, in sealed bytes of this direction.
    pub(super) end: u64,
}

impl Eyes {
    const fn new(cipher: CipherState, rekey_every: u64) -> Self {
        Self { cipher, decoder: SealedDecoder::new(), rekey_every, offset: 0 }
    }

    /// The records in `bytes`; a writer never stops within one.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let (mut rest, mut seen) = (bytes, Vec::new());
        while let Some(body) = self.decoder.read(&mut rest).expect("a record") {
            let plaintext = self.cipher.decrypt_with_ad(&[], body).expect("sealed with the key of this direction");
            if self.cipher.nonce().is_multiple_of(self.rekey_every) {
                self.cipher.rekey();
            }
            let (kind, plaintext) = open_plaintext(plaintext).expect("a kind");
            let end = self.offset + (bytes.len() - rest.len()) as u64;
            seen.push(Seen { kind, plaintext: plaintext.to_vec(), end });
        }
        self.offset += bytes.len() as u64;
        assert!(seen.last().is_none_or(|last| last.end == self.offset), "half a record was written");
        seen
    }
}

/// A handshake of which everything is seen: the eyes for what each side sends, and what each side sealed already.
pub(super) fn shake_hands(pair: &mut Pair, seed: u64, ik: bool) -> ([Eyes; 2], [Vec<u8>; 2]) {
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    let (preamble, first) = first.split_at(RECORD_HEADER + PREAMBLE);
    let [a, b] = [A, B].map(|side| pair.sides[side].config.clone());
    let prologue = [b"peerage-v1", preamble].concat();
    let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(seed).derive("a"));
    let mut noise = if ik {
        HandshakeState::ik_initiator(&prologue, a.static_key.clone(), *b.static_key.public(), &mut rng)
    } else {
        HandshakeState::xx(Role::Initiator, &prologue, a.static_key.clone(), &mut rng)
    };
    let proof = |noise: &mut HandshakeState, version: u64| {
        let mut message = Vec::new();
        let hello = Hello::new(version << 56 | a.features, Vec::new()).expect("no address");
        write_proof(noise, &a.keypair, &hello, &mut message).expect("our turn");
        message
    };
    let ours = if ik {
        proof(&mut noise, 0)
    } else {
        let mut message = Vec::new();
        noise.write_message(&[], &mut message).expect("our turn");
        message
    };
    assert_eq!(&first[RECORD_HEADER..], &ours, "the same secrets say the same");

    let second = pair.transmit(B, 0);
    let length = RECORD_HEADER + u32::from_be_bytes(second[8..12].try_into().expect("four bytes")) as usize;
    let (second, sealed_by_b) = second.split_at(length);
    pair.deliver(A, second);
    read_proof(&mut noise, &second[RECORD_HEADER..], a.keypair.node_id()).expect("proved");
    let mut sealed_by_a = Vec::new();
    if !ik {
        let third = pair.transmit(A, 0);
        let proof = proof(&mut noise, 1);
        let (third, sealed) = third.split_at(RECORD_HEADER + proof.len());
        pair.deliver(B, third);
        sealed_by_a = sealed.to_vec();
    }
    let Split { send, receive, .. } = noise.split().expect("complete");
    let eyes = [Eyes::new(send, a.rekey_every), Eyes::new(receive, b.rekey_every)];
    (eyes, [sealed_by_a, sealed_by_b.to_vec()])
}
