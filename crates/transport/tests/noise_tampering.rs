//! Whoever sits between two peers may change, cut, repeat or replace what they say; the receiver then says so with a
//! typed error, and never panics.

use peerage_transport::proto::noise::{
    CipherState, DhKeypair, HandshakeState, MAX_MESSAGE_LEN, NoiseError, Role, Split, TAG_LEN,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const PAYLOADS: [&[u8]; 3] = [b"first, in clear", b"second", b"third"];

/// Both sides as they stand when message `message` (1 to 3) has been written and not yet read.
struct Stage {
    writer: HandshakeState,
    reader: HandshakeState,
    message: Vec<u8>,
}

fn side(role: Role, prologue: &[u8]) -> HandshakeState {
    let mut rng = ChaCha20Rng::seed_from_u64(role as u64);
    HandshakeState::xx(role, prologue, DhKeypair::generate(&mut rng), &mut rng)
}

fn stage(number: usize) -> Stage {
    let (mut writer, mut reader) = (side(Role::Initiator, b"p"), side(Role::Responder, b"p"));
    let mut message = write(&mut writer, PAYLOADS[0]);
    for payload in &PAYLOADS[1..number] {
        reader.read_message(&message).unwrap();
        (writer, reader) = (reader, writer);
        message = write(&mut writer, payload);
    }
    Stage { writer, reader, message }
}

fn write(side: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    side.write_message(payload, &mut message).unwrap();
    message
}

/// What became of a handshake whose `message` number `number` arrived as `forged`.
fn outcome(number: usize, forged: &[u8]) -> Result<(), NoiseError> {
    let Stage { mut writer, mut reader, .. } = stage(number);
    let read = reader.read_message(forged).map(drop);
    if let Err(error) = read {
        assert_eq!(reader.read_message(forged), Err(NoiseError::HandshakeFailed), "a failed handshake stays failed");
        return Err(error);
    }
    if number == 1 {
        // Nothing can authenticate message 1 before both ephemerals are known: the answer to it does.
        let mut answer = Vec::new();
        reader.write_message(PAYLOADS[1], &mut answer)?;
        writer.read_message(&answer)?;
    }
    Ok(())
}

#[test]
fn each_byte_of_each_handshake_message_is_protected() {
    for number in 1..=3 {
        let original = stage(number).message;
        assert_eq!(outcome(number, &original), Ok(()), "message {number} unharmed");
        for at in 0..original.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut forged = original.clone();
                forged[at] ^= mask;
                assert_eq!(
                    outcome(number, &forged),
                    Err(NoiseError::Authentication),
                    "message {number}, byte {at}, mask {mask:#x}"
                );
            }
        }
    }
}

/// IK, with the message `number` (1 or 2) arriving as `forged`, and then the first transport message.
fn outcome_of_ik(number: usize, forge: impl Fn(&mut Vec<u8>)) -> Result<(), NoiseError> {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let (s, rs) = (DhKeypair::generate(&mut rng), DhKeypair::generate(&mut rng));
    let mut initiator = HandshakeState::ik_initiator(b"p", s, *rs.public(), &mut rng);
    let mut responder = HandshakeState::ik_responder(b"p", rs, &mut rng);
    let mut message = write(&mut initiator, PAYLOADS[0]);
    if number == 1 {
        forge(&mut message);
    }
    responder.read_message(&message)?;
    let mut message = write(&mut responder, PAYLOADS[1]);
    if number == 2 {
        forge(&mut message);
    }
    initiator.read_message(&message)?;
    let (mut initiator, mut responder) = (initiator.split()?, responder.split()?);
    let mut record = seal(&mut initiator.send, b"", b"first");
    responder.receive.decrypt_with_ad(b"", &mut record).map(drop)
}

#[test]
fn each_byte_of_each_message_of_ik_is_protected() {
    for (number, keys) in [(1, 32 + 48), (2, 32)] {
        let length = keys + PAYLOADS[number - 1].len() + TAG_LEN;
        assert_eq!(outcome_of_ik(number, |message| assert_eq!(message.len(), length)), Ok(()), "unharmed");
        for at in 0..length {
            for mask in [0x01, 0x80, 0xff] {
                let changed = outcome_of_ik(number, |message| message[at] ^= mask);
                assert_eq!(changed, Err(NoiseError::Authentication), "message {number}, byte {at}, mask {mask:#x}");
            }
        }
        for len in 0..length {
            let error = outcome_of_ik(number, |message| message.truncate(len)).expect_err("something is missing");
            assert!(matches!(error, NoiseError::TooShort | NoiseError::Authentication), "{number}/{len}: {error:?}");
        }
    }
}

#[test]
fn who_knows_another_static_key_of_the_responder_is_told_apart_from_who_sends_garbage() {
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let mut keys = || DhKeypair::generate(&mut rng);
    let (s, old, new) = (keys(), keys(), keys());
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let mut initiator = HandshakeState::ik_initiator(b"p", s.clone(), *old.public(), &mut rng);
    let mut responder = HandshakeState::ik_responder(b"p", new.clone(), &mut rng);
    let error = responder.read_message(&write(&mut initiator, PAYLOADS[0]));
    assert_eq!((error, responder.remote_static()), (Err(NoiseError::Authentication), None), "not even the static key");

    let mut initiator = HandshakeState::ik_initiator(b"p", s.clone(), *new.public(), &mut rng);
    let mut responder = HandshakeState::ik_responder(b"p", new, &mut rng);
    let mut message = write(&mut initiator, PAYLOADS[0]);
    *message.last_mut().unwrap() ^= 1;
    let error = responder.read_message(&message);
    assert_eq!((error, responder.remote_static()), (Err(NoiseError::Authentication), Some(s.public())));
}

#[test]
fn a_handshake_message_cut_short_or_drawn_out_is_refused() {
    for number in 1..=3 {
        let original = stage(number).message;
        for len in 0..original.len() {
            let error = outcome(number, &original[..len]).expect_err("something is missing");
            assert!(matches!(error, NoiseError::TooShort | NoiseError::Authentication), "{number}/{len}: {error:?}");
            assert!(error.is_remote_fault());
        }
        let longer = [original.as_slice(), b"x"].concat();
        assert_eq!(outcome(number, &longer), Err(NoiseError::Authentication), "message {number}");
        assert_eq!(outcome(number, &vec![0; MAX_MESSAGE_LEN + 1]), Err(NoiseError::TooLong), "message {number}");
    }
}

#[test]
fn an_own_message_sent_back_is_refused() {
    let mut initiator = side(Role::Initiator, b"p");
    let first = write(&mut initiator, PAYLOADS[0]);
    assert_eq!(initiator.read_message(&first), Err(NoiseError::TooShort), "no static key in it");
    let Stage { mut writer, message, .. } = stage(2);
    assert_eq!(writer.read_message(&message), Err(NoiseError::Authentication));
}

#[test]
fn different_prologues_do_not_agree() {
    let (mut initiator, mut responder) = (side(Role::Initiator, b"v1"), side(Role::Responder, b"v2"));
    responder.read_message(&write(&mut initiator, b"")).unwrap();
    let answer = write(&mut responder, b"");
    assert_eq!(initiator.read_message(&answer), Err(NoiseError::Authentication));
}

#[test]
fn an_ephemeral_of_small_order_is_refused_in_both_directions() {
    // 0 and 1, p - 1 (of order 4 or less on curve or twist), and the unreduced p and p + 1, with p = 2^255 - 19.
    let near_p = |low: u8| {
        let mut point = [0xff; 32];
        (point[0], point[31]) = (low, 0x7f);
        point
    };
    let one = core::array::from_fn(|i| u8::from(i == 0));
    for point in [[0; 32], one, near_p(0xec), near_p(0xed), near_p(0xee)] {
        for number in [1, 2] {
            let error = outcome_of_ik(number, |message| message[..32].copy_from_slice(&point));
            assert_eq!(error, Err(NoiseError::NonContributory), "IK, message {number}: {point:?}");
        }
        assert_eq!(outcome(1, &point), Err(NoiseError::NonContributory), "from the initiator: {point:?}");
        let Stage { mut reader, mut message, .. } = stage(2);
        message[..32].copy_from_slice(&point);
        assert_eq!(reader.read_message(&message), Err(NoiseError::NonContributory), "from the responder: {point:?}");
    }
}

#[test]
fn a_call_out_of_turn_is_our_own_fault_and_spoils_nothing() {
    let (mut initiator, mut responder) = (side(Role::Initiator, b"p"), side(Role::Responder, b"p"));
    let mut out = b"kept".to_vec();
    assert_eq!(responder.write_message(b"", &mut out), Err(NoiseError::OutOfTurn));
    assert_eq!(initiator.read_message(b""), Err(NoiseError::OutOfTurn));
    assert_eq!(out, b"kept");
    let message = write(&mut initiator, b"");
    assert_eq!(initiator.write_message(b"", &mut out), Err(NoiseError::OutOfTurn));
    responder.read_message(&message).unwrap();
    assert!(!NoiseError::OutOfTurn.is_remote_fault());

    let Stage { writer, mut reader, message } = stage(3);
    reader.read_message(&message).unwrap();
    assert_eq!(reader.read_message(&message), Err(NoiseError::HandshakeComplete));
    assert!(writer.split().is_ok() && reader.split().is_ok());
    assert_eq!(initiator.split().unwrap_err(), NoiseError::HandshakeIncomplete);
}

#[test]
fn a_payload_too_long_leaves_nothing_behind() {
    let mut initiator = side(Role::Initiator, b"p");
    let mut out = b"kept".to_vec();
    assert_eq!(initiator.write_message(&vec![0; MAX_MESSAGE_LEN - 31], &mut out), Err(NoiseError::PayloadTooLong));
    assert_eq!(out, b"kept");
    assert_eq!(initiator.split().unwrap_err(), NoiseError::HandshakeFailed);
    let mut initiator = side(Role::Initiator, b"p");
    assert_eq!(initiator.write_message(&vec![0; MAX_MESSAGE_LEN - 32], &mut out), Ok(()));
    assert_eq!(out.len(), 4 + MAX_MESSAGE_LEN);
}

fn connected() -> (Split, Split) {
    let Stage { writer, mut reader, message } = stage(3);
    reader.read_message(&message).unwrap();
    (writer.split().unwrap(), reader.split().unwrap())
}

fn seal(cipher: &mut CipherState, ad: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut text = payload.to_vec();
    let tag = cipher.encrypt_with_ad(ad, &mut text).unwrap();
    text.extend_from_slice(&tag);
    text
}

#[test]
fn each_byte_of_a_transport_message_is_protected_and_a_failure_moves_no_counter() {
    let (mut alice, mut bob) = connected();
    let original = seal(&mut alice.send, b"ad", b"a transport message");
    for at in 0..original.len() {
        let mut forged = original.clone();
        forged[at] ^= 0x40;
        let before = forged.clone();
        assert_eq!(bob.receive.decrypt_with_ad(b"ad", &mut forged), Err(NoiseError::Authentication), "byte {at}");
        // One library leaves it as it was, the other wipes the text.
        let text = original.len() - TAG_LEN;
        let untouched = forged == before || forged[..text].iter().all(|byte| *byte == 0);
        assert!(untouched, "nothing unauthenticated can be read: {forged:?}");
    }
    for len in 0..original.len() {
        let expected = if len < TAG_LEN { NoiseError::TooShort } else { NoiseError::Authentication };
        assert_eq!(bob.receive.decrypt_with_ad(b"ad", &mut original[..len].to_vec()), Err(expected), "cut to {len}");
    }
    assert_eq!(bob.receive.decrypt_with_ad(b"da", &mut original.clone()), Err(NoiseError::Authentication));
    assert_eq!(bob.receive.nonce(), 0);
    assert_eq!(bob.receive.decrypt_with_ad(b"ad", &mut original.clone()).unwrap(), b"a transport message");
    assert_eq!(bob.receive.decrypt_with_ad(b"ad", &mut original.clone()), Err(NoiseError::Authentication), "repeated");
}

#[test]
fn transport_messages_neither_swap_places_nor_turn_round_nor_survive_a_rekey() {
    let (mut alice, mut bob) = connected();
    let mut first = seal(&mut alice.send, b"", b"first");
    let mut second = seal(&mut alice.send, b"", b"second");
    assert_eq!(bob.receive.decrypt_with_ad(b"", &mut second), Err(NoiseError::Authentication), "out of order");
    assert_eq!(alice.receive.decrypt_with_ad(b"", &mut first), Err(NoiseError::Authentication), "sent back");
    bob.receive.rekey();
    assert_eq!(bob.receive.decrypt_with_ad(b"", &mut first), Err(NoiseError::Authentication), "under the next key");
}

#[test]
fn a_transport_message_too_long_is_refused_on_both_sides() {
    let (mut alice, mut bob) = connected();
    assert_eq!(
        alice.send.encrypt_with_ad(b"", &mut vec![0; MAX_MESSAGE_LEN - TAG_LEN + 1]),
        Err(NoiseError::PayloadTooLong)
    );
    assert_eq!(bob.receive.decrypt_with_ad(b"", &mut vec![0; MAX_MESSAGE_LEN + 1]), Err(NoiseError::TooLong));
    let mut longest = seal(&mut alice.send, b"", &vec![7; MAX_MESSAGE_LEN - TAG_LEN]);
    assert_eq!(bob.receive.decrypt_with_ad(b"", &mut longest).unwrap().len(), MAX_MESSAGE_LEN - TAG_LEN);
}
