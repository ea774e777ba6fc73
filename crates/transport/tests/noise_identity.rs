//! The identity proof in messages 2 and 3: it holds for one identity, one side of one handshake and one static key,
//! and is refused as anything else, with an error that says as what.

use std::net::SocketAddr;

use peerage_core::NodeId;
use peerage_transport::proto::{
    keypair::Keypair,
    noise::{
        DhKeypair, HandshakeState, NoiseError, Role,
        identity::{
            Claim, Hello, MAX_EARLY, MAX_LISTEN_ADDRESSES, ProofError, TooManyAddresses, open_first_payload,
            open_payload, read_first_message, read_proof, seal_first_payload, seal_payload, write_proof,
        },
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const BLOCK: usize = 256;
/// Length, identity, signature: what stands before the features in a payload.
const FEATURES_AT: usize = 2 + 32 + 64;

fn alice() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

fn bob() -> Keypair {
    Keypair::from_seed(&[2; 32])
}

fn claim() -> Claim {
    Claim { role: Role::Responder, handshake_hash: [3; 32], static_key: [4; 32] }
}

fn hello() -> Hello {
    let listen = ["192.0.2.1:30303", "[2001:db8::1]:30303"].map(|address| address.parse().unwrap());
    Hello::new(0b101, listen.to_vec()).unwrap()
}

fn open(payload: &[u8]) -> Result<NodeId, ProofError> {
    open_payload(payload, &claim(), bob().node_id()).map(|remote| remote.node_id)
}

#[test]
fn a_handshake_tells_both_sides_who_the_other_is() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let [mut initiator, mut responder] = [Role::Initiator, Role::Responder]
        .map(|role| HandshakeState::xx(role, b"p", DhKeypair::generate(&mut rng), &mut rng));
    let (alice, bob, quiet) = (alice(), bob(), Hello::default());

    let mut message = Vec::new();
    initiator.write_message(b"", &mut message).unwrap();
    read_first_message(&mut responder, &message).unwrap();
    message.clear();
    write_proof(&mut responder, &bob, &hello(), &mut message).unwrap();
    let met = read_proof(&mut initiator, &message, alice.node_id()).unwrap();
    assert_eq!((met.node_id, met.hello), (bob.node_id(), hello()));
    assert_eq!(message.len(), 32 + 48 + BLOCK + 16);

    let mut answer = Vec::new();
    write_proof(&mut initiator, &alice, &quiet, &mut answer).unwrap();
    let met = read_proof(&mut responder, &answer, bob.node_id()).unwrap();
    assert_eq!((met.node_id, met.hello), (alice.node_id(), quiet));
    assert_eq!(answer.len(), 48 + BLOCK + 16, "no addresses take as much room as two");
    assert_eq!(initiator.split().unwrap().handshake_hash, responder.split().unwrap().handshake_hash);
}

/// A peer that owns both its keys, but repeats a proof made in another handshake.
#[test]
fn a_proof_from_another_handshake_is_refused() {
    let answer = |seed: u64, proof: Option<&[u8]>| {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut initiator = HandshakeState::xx(Role::Initiator, b"", DhKeypair::generate(&mut rng), &mut rng);
        let s = DhKeypair::generate(&mut ChaCha20Rng::seed_from_u64(99));
        let mut responder = HandshakeState::xx(Role::Responder, b"", s, &mut rng);
        let mut message = Vec::new();
        initiator.write_message(b"", &mut message).unwrap();
        responder.read_message(&message).unwrap();
        let (handshake_hash, static_key) = (*responder.handshake_hash(), *responder.local_static());
        let made = seal_payload(&bob(), &Claim { role: Role::Responder, handshake_hash, static_key }, &hello());
        message.clear();
        responder.write_message(proof.unwrap_or(&made), &mut message).unwrap();
        (read_proof(&mut initiator, &message, alice().node_id()).map(|remote| remote.node_id), made)
    };
    let (first, proof) = answer(1, None);
    assert_eq!(first, Ok(bob().node_id()));
    assert_eq!(answer(1, Some(&proof)).0, Ok(bob().node_id()), "the very same handshake");
    assert_eq!(answer(2, Some(&proof)).0, Err(ProofError::BadSignature), "a fresh ephemeral");
}

#[test]
fn a_proof_holds_for_its_claim_only() {
    let sealed = |change: fn(&mut Claim)| {
        let mut claim = claim();
        change(&mut claim);
        seal_payload(&alice(), &claim, &hello())
    };
    assert_eq!(open(&sealed(|_| {})), Ok(alice().node_id()));
    assert_eq!(open(&sealed(|claim| claim.role = Role::Initiator)), Err(ProofError::WrongRole));
    assert_eq!(open(&sealed(|claim| claim.handshake_hash[31] ^= 1)), Err(ProofError::BadSignature));
    assert_eq!(open(&sealed(|claim| claim.static_key[0] ^= 1)), Err(ProofError::BadSignature));
    let mut impostor = sealed(|_| {});
    impostor[2..34].copy_from_slice(Keypair::from_seed(&[5; 32]).node_id().as_bytes());
    assert_eq!(open(&impostor), Err(ProofError::BadSignature), "in another's name");
    // The same bytes signed by the same identity without the domain.
    let mut undomained = sealed(|_| {});
    let input = [[0x01].as_slice(), &[3; 32], &[4; 32]].concat();
    undomained[34..FEATURES_AT].copy_from_slice(&alice().sign(&input));
    assert_eq!(open(&undomained), Err(ProofError::BadSignature));
}

#[test]
fn the_signed_bytes_are_those_of_the_documentation() {
    let input = [b"\x10peerage-noise-v1".as_slice(), &[0x01], &[3; 32], &[4; 32]].concat();
    let payload = seal_payload(&alice(), &claim(), &hello());
    assert_eq!(payload[34..FEATURES_AT], alice().sign(&input));
}

#[test]
fn a_connection_to_oneself_is_told_apart() {
    let payload = seal_payload(&bob(), &claim(), &hello());
    assert_eq!(open(&payload), Err(ProofError::Oneself));
    assert!(!ProofError::Oneself.is_remote_fault());
    let mut liar = seal_payload(&alice(), &claim(), &hello());
    liar[2..34].copy_from_slice(bob().node_id().as_bytes());
    assert_eq!(open(&liar), Err(ProofError::BadSignature), "who only names us is a liar");
}

#[test]
fn each_byte_of_a_payload_counts() {
    let good = seal_payload(&alice(), &claim(), &hello());
    let body_end = 2 + usize::from(u16::from_be_bytes([good[0], good[1]]));
    assert_eq!(good.len(), BLOCK);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        let opened = open(&bad);
        match at {
            // A length that is wrong by one leaves a body byte as padding, or takes padding for body.
            0..2 => assert!(matches!(opened, Err(ProofError::Malformed | ProofError::Padding)), "{at}: {opened:?}"),
            2..FEATURES_AT => assert_eq!(opened, Err(ProofError::BadSignature), "{at}"),
            // Features and addresses are not under the signature but under the tag of the message that carries them.
            _ if at < body_end => assert!(!matches!(opened, Err(ProofError::Padding)), "{at}: {opened:?}"),
            _ => assert_eq!(opened, Err(ProofError::Padding), "{at}"),
        }
    }
}

#[test]
fn padding_reaches_exactly_to_the_next_block() {
    let good = seal_payload(&alice(), &claim(), &hello());
    assert_eq!(open(&[good.as_slice(), &[0; BLOCK]].concat()), Err(ProofError::Padding), "a block too many");
    assert_eq!(open(&good[..BLOCK - 1]), Err(ProofError::Padding));
    assert_eq!(open(&[good.as_slice(), &[0; 4 * BLOCK]].concat()), Err(ProofError::Malformed), "beyond the limit");
    for len in 0..FEATURES_AT {
        assert_eq!(open(&good[..len]), Err(ProofError::Malformed), "cut to {len}");
    }
    assert_eq!(open(&[0; BLOCK]), Err(ProofError::Malformed), "an empty body");
    assert_eq!(open(&[0xff; BLOCK]), Err(ProofError::Malformed), "a body longer than the payload");
}

#[test]
fn early_words_stand_between_a_proof_and_its_padding_and_nowhere_else() {
    let open_first = |payload: &[u8]| {
        let opened = open_first_payload(payload, &claim(), bob().node_id());
        opened.map(|(remote, early)| (remote.node_id, early.to_vec()))
    };
    let seal_first = |early: &[u8]| seal_first_payload(&alice(), &claim(), &hello(), early);
    let bare = seal_payload(&alice(), &claim(), &hello());
    assert_eq!(seal_first(&[]), bare, "who says nothing says it in as many bytes as ever");
    assert_eq!(open_first(&bare), Ok((alice().node_id(), Vec::new())));
    for len in [1, 40, MAX_EARLY] {
        let words = vec![7; len];
        let good = seal_first(&words);
        assert_eq!(open_first(&good), Ok((alice().node_id(), words)), "{len}");
        assert_eq!(open(&good), Err(ProofError::Padding), "{len}: no other message has any");
        let more = [good.as_slice(), &[0; BLOCK]].concat();
        assert_eq!(open_first(&more), Err(ProofError::Padding), "{len}: a block too many");
        let mut bad = good.clone();
        *bad.last_mut().expect("not empty") = 1;
        assert_eq!(open_first(&bad), Err(ProofError::Padding), "{len}");
    }
    let too_many = [7; MAX_EARLY + 1];
    assert_eq!(seal_first(&too_many), bare, "left out");
    let body_end = 2 + usize::from(u16::from_be_bytes([bare[0], bare[1]]));
    let by_hand = |len: usize, words: &[u8]| {
        let mut payload = [&bare[..body_end], &u16::try_from(len).expect("short").to_be_bytes(), words].concat();
        payload.resize(payload.len().next_multiple_of(BLOCK), 0);
        payload
    };
    assert_eq!(open_first(&by_hand(too_many.len(), &too_many)), Err(ProofError::Malformed));
    assert_eq!(open_first(&by_hand(400, &[7; 10])), Err(ProofError::Padding), "a length that lies");
}

#[test]
fn a_node_names_four_addresses_at_most() {
    let addresses = |count: usize| -> Vec<SocketAddr> {
        (0..count).map(|i| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, i as u16], u16::MAX))).collect()
    };
    let full = Hello::new(u64::MAX, addresses(MAX_LISTEN_ADDRESSES)).unwrap();
    let payload = seal_payload(&alice(), &claim(), &full);
    assert_eq!(payload.len(), BLOCK, "the largest payload fills one block, as documented");
    assert_eq!(open(&payload), Ok(alice().node_id()));
    assert_eq!(Hello::new(0, addresses(MAX_LISTEN_ADDRESSES + 1)), Err(TooManyAddresses));

    // A peer that does not count: the same body with a fifth address behind the four.
    let mut body = payload[2..2 + usize::from(u16::from_be_bytes([payload[0], payload[1]]))].to_vec();
    let address_len = 1 + 16 + 3;
    let count_at = body.len() - MAX_LISTEN_ADDRESSES * address_len - 1;
    assert_eq!(body[count_at], MAX_LISTEN_ADDRESSES as u8);
    body[count_at] += 1;
    body.extend_from_within(body.len() - address_len..);
    let mut crowded = [(body.len() as u16).to_be_bytes().as_slice(), &body].concat();
    crowded.resize(crowded.len().next_multiple_of(BLOCK), 0);
    assert_eq!(open(&crowded), Err(ProofError::TooManyAddresses(TooManyAddresses)));
}

#[test]
fn the_first_message_carries_nothing() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut side = |role| HandshakeState::xx(role, b"", DhKeypair::generate(&mut rng), &mut rng);
    let (mut initiator, mut responder) = (side(Role::Initiator), side(Role::Responder));
    let mut message = Vec::new();
    initiator.write_message(b"x", &mut message).unwrap();
    assert_eq!(read_first_message(&mut responder, &message), Err(ProofError::UnexpectedPayload));
    assert!(ProofError::UnexpectedPayload.is_remote_fault());

    let mut responder = side(Role::Responder);
    assert_eq!(read_first_message(&mut responder, &[0; 31]), Err(ProofError::Noise(NoiseError::TooShort)));
    let mut responder = side(Role::Responder);
    let misplaced = read_proof(&mut responder, &message, bob().node_id());
    assert_eq!(misplaced, Err(ProofError::Noise(NoiseError::OutOfTurn)));
    assert!(!misplaced.unwrap_err().is_remote_fault());
}
