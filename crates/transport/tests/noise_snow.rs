//! The independent implementation `snow` as oracle: our initiator against its responder and the other way round, in XX and
//! in IK, over random keys, prologues, payloads, transport messages and rekeys.

use peerage_transport::proto::noise::{DhKeypair, HandshakeState, Role, Split, TAG_LEN};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use snow::resolvers::{DefaultResolver, FallbackResolver};

/// In both roles, so that twice as many handshakes run, half of them of each pattern.
const HANDSHAKES: u64 = 1_000;
const MAX_PAYLOAD: usize = 600;

#[test]
fn our_initiator_and_snows_responder_understand_each_other() {
    (0..HANDSHAKES).for_each(|seed| converse(Role::Initiator, seed));
}

#[test]
fn snows_initiator_and_our_responder_understand_each_other() {
    (0..HANDSHAKES).for_each(|seed| converse(Role::Responder, HANDSHAKES + seed));
}

/// One handshake and some traffic behind it; `role` is ours.
fn converse(role: Role, seed: u64) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let prologue = random(&mut rng, MAX_PAYLOAD);
    let s = DhKeypair::generate(&mut rng);
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    let known = seed.is_multiple_of(2).then(|| match role {
        Role::Initiator => snow_public(&secret),
        Role::Responder => *s.public(),
    });
    let mut snows = snow(role.opposite(), &prologue, &secret, known.as_ref(), &mut rng);
    let mut ours = match (known, role) {
        (None, _) => HandshakeState::xx(role, &prologue, s, &mut rng),
        (Some(rs), Role::Initiator) => HandshakeState::ik_initiator(&prologue, s, rs, &mut rng),
        (Some(_), Role::Responder) => HandshakeState::ik_responder(&prologue, s, &mut rng),
    };
    assert_eq!(ours.handshake_hash().as_slice(), snows.get_handshake_hash(), "seed {seed}: h before message 1");
    let mut buffer = vec![0; 65_535];

    while !ours.is_complete() {
        assert_eq!(ours.is_my_turn(), !snows.is_my_turn(), "seed {seed}");
        let payload = random(&mut rng, MAX_PAYLOAD);
        if ours.is_my_turn() {
            let mut message = Vec::new();
            ours.write_message(&payload, &mut message).unwrap();
            let len = snows.read_message(&message, &mut buffer).unwrap_or_else(|e| panic!("seed {seed}: snow: {e}"));
            assert_eq!(buffer[..len], payload, "seed {seed}");
        } else {
            let len = snows.write_message(&payload, &mut buffer).unwrap();
            let read = ours.read_message(&buffer[..len]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(read, payload, "seed {seed}");
        }
        assert_eq!(ours.handshake_hash().as_slice(), snows.get_handshake_hash(), "seed {seed}: h between messages");
    }

    let our_static = *ours.local_static();
    let mut ours = ours.split().unwrap();
    assert_eq!(snows.get_remote_static(), Some(our_static.as_slice()), "seed {seed}");
    assert_eq!(snows.get_handshake_hash(), ours.handshake_hash, "seed {seed}: h");
    let mut snows = snows.into_transport_mode().unwrap();
    assert_eq!(snows.get_remote_static(), Some(our_static.as_slice()), "seed {seed}");

    for _ in 0..rng.next_u32() % 12 {
        match rng.next_u32() % 4 {
            0 => {
                ours.send.rekey();
                snows.rekey_incoming();
            }
            1 => {
                ours.receive.rekey();
                snows.rekey_outgoing();
            }
            2 => say(&mut ours, &mut snows, &random(&mut rng, MAX_PAYLOAD), seed),
            _ => hear(&mut ours, &mut snows, &random(&mut rng, MAX_PAYLOAD), seed),
        }
    }
    // Whatever happened above, both directions have carried something at the end.
    say(&mut ours, &mut snows, b"last", seed);
    hear(&mut ours, &mut snows, b"last", seed);
    assert_eq!(ours.send.nonce(), snows.receiving_nonce(), "seed {seed}");
    assert_eq!(ours.receive.nonce(), snows.sending_nonce(), "seed {seed}");
}

fn say(ours: &mut Split, snows: &mut snow::TransportState, payload: &[u8], seed: u64) {
    let mut message = payload.to_vec();
    let tag = ours.send.encrypt_with_ad(b"", &mut message).unwrap();
    message.extend_from_slice(&tag);
    let mut heard = vec![0; message.len()];
    let len = snows.read_message(&message, &mut heard).unwrap_or_else(|e| panic!("seed {seed}: snow: {e}"));
    assert_eq!(heard[..len], *payload, "seed {seed}");
}

fn hear(ours: &mut Split, snows: &mut snow::TransportState, payload: &[u8], seed: u64) {
    let mut message = vec![0; payload.len() + TAG_LEN];
    let len = snows.write_message(payload, &mut message).unwrap();
    let heard = ours.receive.decrypt_with_ad(b"", &mut message[..len]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert_eq!(heard, payload, "seed {seed}");
}

/// Up to `max` random bytes, sometimes none.
fn random(rng: &mut ChaCha20Rng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.next_u32() as usize % (max + 1)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn snow_public(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// Snow's side of the handshake, its dice drawn from ours; IK if the responder's static key is known.
fn snow(
    role: Role,
    prologue: &[u8],
    secret: &[u8; 32],
    known: Option<&[u8; 32]>,
    rng: &mut ChaCha20Rng,
) -> snow::HandshakeState {
    let dice = Box::new(Dice(ChaCha20Rng::from_rng(rng)));
    let resolver = FallbackResolver::new(dice, Box::new(DefaultResolver));
    let pattern = if known.is_some() { "IK" } else { "XX" };
    let name = format!("Noise_{pattern}_25519_ChaChaPoly_SHA256").parse().unwrap();
    let builder = snow::Builder::with_resolver(name, Box::new(resolver));
    let builder = builder.prologue(prologue).unwrap().local_private_key(secret).unwrap();
    match (role, known) {
        (Role::Initiator, Some(rs)) => builder.remote_public_key(rs).unwrap().build_initiator().unwrap(),
        (Role::Initiator, None) => builder.build_initiator().unwrap(),
        (Role::Responder, _) => builder.build_responder().unwrap(),
    }
}

/// Gives snow, built without a source of entropy, seeded dice.
struct Dice(ChaCha20Rng);

impl snow::resolvers::CryptoResolver for Dice {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        Some(Box::new(Self(self.0.clone())))
    }

    fn resolve_dh(&self, _: &snow::params::DHChoice) -> Option<Box<dyn snow::types::Dh>> {
        None
    }

    fn resolve_hash(&self, _: &snow::params::HashChoice) -> Option<Box<dyn snow::types::Hash>> {
        None
    }

    fn resolve_cipher(&self, _: &snow::params::CipherChoice) -> Option<Box<dyn snow::types::Cipher>> {
        None
    }
}

impl snow::types::Random for Dice {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}
