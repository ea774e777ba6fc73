//! What only the inside can show: the counter's end, and a second pattern on the same state machine.

use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::cipher_state::{CipherState, MAX_NONCE};
use super::pattern::IK;
use super::{DhKeypair, HandshakeState, NoiseError, Role};

#[test]
fn a_key_stops_after_two_to_the_sixtieth_messages_and_a_rekey_does_not_revive_it() {
    let [mut sender, mut receiver] = [(); 2].map(|()| CipherState::initialize_key(&[7; 32]));
    sender.set_nonce(MAX_NONCE - 1);
    receiver.set_nonce(MAX_NONCE - 1);
    let mut last = b"last".to_vec();
    let tag = sender.encrypt_with_ad(b"", &mut last).unwrap();
    last.extend_from_slice(&tag);
    assert_eq!(receiver.decrypt_with_ad(b"", &mut last.clone()).unwrap(), b"last");

    let mut untouched = *b"text";
    assert_eq!(sender.encrypt_with_ad(b"", &mut untouched), Err(NoiseError::NonceExhausted));
    assert_eq!(&untouched, b"text", "nothing leaves under a nonce used before");
    assert_eq!(receiver.decrypt_with_ad(b"", &mut last), Err(NoiseError::NonceExhausted));
    sender.rekey();
    assert_eq!(sender.encrypt_with_ad(b"", &mut untouched), Err(NoiseError::NonceExhausted));
}

#[test]
fn nothing_secret_is_printed() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let keypair = DhKeypair::generate(&mut rng);
    assert_eq!(format!("{keypair:?}"), format!("DhKeypair {{ public: {:?}, .. }}", keypair.public()));
    let state = HandshakeState::xx(Role::Initiator, b"", keypair, &mut rng);
    assert_eq!(format!("{state:?}"), "HandshakeState { role: Initiator, done: 0, failed: false, .. }");
    assert_eq!(format!("{:?}", CipherState::initialize_key(&[7; 32])), "CipherState { n: 0, .. }");
}

#[test]
fn the_state_machine_follows_the_table_snow_understands_our_ik_too() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for ours_first in [true, false] {
        let (s, snows_secret) = (DhKeypair::generate(&mut rng), [9; 32]);
        let mut ours = if ours_first {
            let role = Role::Initiator;
            HandshakeState::initialize(&IK, role, b"p", s, Some(snow_public(&snows_secret)), &mut rng)
        } else {
            HandshakeState::initialize(&IK, Role::Responder, b"p", s, None, &mut rng)
        };
        let our_static = *ours.local_static();
        let mut snows = snow_ik(&snows_secret, (!ours_first).then_some(&our_static));

        let mut buffer = [0; 512];
        while !ours.is_complete() {
            let len = if ours.is_my_turn() {
                let mut message = Vec::new();
                ours.write_message(b"payload", &mut message).unwrap();
                snows.read_message(&message, &mut buffer).unwrap()
            } else {
                let len = snows.write_message(b"payload", &mut buffer).unwrap();
                let payload = ours.read_message(&buffer[..len]).unwrap();
                buffer[..payload.len()].copy_from_slice(&payload);
                payload.len()
            };
            assert_eq!(&buffer[..len], b"payload");
        }
        let mut ours = ours.split().unwrap();
        assert_eq!(ours.handshake_hash, snows.get_handshake_hash());
        assert_eq!(ours.remote_static, snow_public(&snows_secret));
        assert_eq!(snows.get_remote_static(), Some(our_static.as_slice()));
        let mut snows = snows.into_transport_mode().unwrap();
        let len = snows.write_message(b"transport", &mut buffer).unwrap();
        assert_eq!(ours.receive.decrypt_with_ad(b"", &mut buffer[..len]).unwrap(), b"transport");
    }
}

fn snow_public(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// Snow's IK: initiator if it knows our static key.
fn snow_ik(secret: &[u8; 32], remote: Option<&[u8; 32]>) -> snow::HandshakeState {
    let resolver =
        snow::resolvers::FallbackResolver::new(Box::new(NoEntropy), Box::new(snow::resolvers::DefaultResolver));
    let name = core::str::from_utf8(IK.protocol_name).unwrap().parse().unwrap();
    let builder = snow::Builder::with_resolver(name, Box::new(resolver)).prologue(b"p").unwrap();
    let builder = builder.local_private_key(secret).unwrap().fixed_ephemeral_key_for_testing_only(&[11; 32]);
    match remote {
        Some(remote) => builder.remote_public_key(remote).unwrap().build_initiator().unwrap(),
        None => builder.build_responder().unwrap(),
    }
}

/// Snow insists on a generator even where its ephemeral is given.
struct NoEntropy;

impl snow::resolvers::CryptoResolver for NoEntropy {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        Some(Box::new(Self))
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

impl snow::types::Random for NoEntropy {
    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), snow::Error> {
        Err(snow::Error::Rng)
    }
}
