//! What only the inside can show: the counter's end, and what is not printed.

mod transitions;
mod wycheproof;

use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::cipher_state::{CipherState, MAX_NONCE};
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
