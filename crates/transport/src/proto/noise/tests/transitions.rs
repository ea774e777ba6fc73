//! `HandshakeState`: each operation at each moment of each pattern. The table is an exhaustive match.

use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::super::{DhKeypair, HandshakeState, MAX_MESSAGE_LEN, NoiseError, Role};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Mine,
    Theirs,
    Complete,
    Failed,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Write,
    WriteTooLong,
    /// The message that is due; where none is, any.
    Read,
    /// A message that ends too early.
    ReadShort,
    ReadTooLong,
    Split,
}

const OPERATIONS: [Operation; 6] = {
    use Operation::{Read, ReadShort, ReadTooLong, Split, Write, WriteTooLong};
    [Write, WriteTooLong, Read, ReadShort, ReadTooLong, Split]
};

/// What comes of it, and whether the handshake can go on as if nothing had been.
fn expected(moment: Moment, operation: Operation) -> (Result<(), NoiseError>, bool) {
    use Moment::{Complete, Failed, Mine, Theirs};
    use Operation::{Read, ReadShort, ReadTooLong, Split, Write, WriteTooLong};
    match (moment, operation) {
        (Mine, Write) | (Theirs, Read) | (Complete, Split) => (Ok(()), true),
        (Mine, WriteTooLong) => (Err(NoiseError::PayloadTooLong), false),
        (Theirs, ReadShort) => (Err(NoiseError::TooShort), false),
        (Theirs, ReadTooLong) => (Err(NoiseError::TooLong), false),
        (Mine, Read | ReadShort | ReadTooLong) | (Theirs, Write | WriteTooLong) => (Err(NoiseError::OutOfTurn), true),
        (Mine | Theirs, Split) => (Err(NoiseError::HandshakeIncomplete), true),
        (Complete, Write | WriteTooLong | Read | ReadShort | ReadTooLong) => (Err(NoiseError::HandshakeComplete), true),
        (Failed, Write | WriteTooLong | Read | ReadShort | ReadTooLong | Split) => {
            (Err(NoiseError::HandshakeFailed), false)
        }
    }
}

/// Both sides after `done` messages. The same every time, so that what one pair says, another one understands.
fn pair(ik: bool, done: usize) -> [HandshakeState; 2] {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let (alice, bob) = (DhKeypair::generate(&mut rng), DhKeypair::generate(&mut rng));
    let known = *bob.public();
    let mut sides = if ik {
        let initiator = HandshakeState::ik_initiator(b"", alice, known, &mut rng);
        [initiator, HandshakeState::ik_responder(b"", bob, &mut rng)]
    } else {
        let initiator = HandshakeState::xx(Role::Initiator, b"", alice, &mut rng);
        [initiator, HandshakeState::xx(Role::Responder, b"", bob, &mut rng)]
    };
    for message in 0..done {
        let bytes = write(&mut sides[message % 2]);
        assert_eq!(sides[1 - message % 2].read_message(&bytes).expect("its turn"), b"payload");
    }
    sides
}

fn write(side: &mut HandshakeState) -> Vec<u8> {
    let mut bytes = Vec::new();
    side.write_message(b"payload", &mut bytes).expect("its turn");
    bytes
}

#[test]
fn every_operation_has_one_outcome_at_every_moment() {
    let mut seen = Vec::new();
    for (ik, messages) in [(false, 3), (true, 2)] {
        for (done, role, broken) in
            (0..=messages).flat_map(|done| [(done, 0, false), (done, 1, false), (done, 0, true)])
        {
            for operation in OPERATIONS {
                let [mut side, mut other] = pair(ik, done);
                if role == 1 {
                    core::mem::swap(&mut side, &mut other);
                }
                if broken {
                    // What breaks it depends on whose turn it is; a complete one cannot break any more.
                    let _ = if side.is_my_turn() {
                        side.write_message(&[0; MAX_MESSAGE_LEN], &mut Vec::new())
                    } else {
                        side.read_message(&[]).map(drop)
                    };
                }
                let moment = match (side.is_complete(), side.is_my_turn()) {
                    (true, _) => Moment::Complete,
                    _ if broken => Moment::Failed,
                    (_, true) => Moment::Mine,
                    (_, false) => Moment::Theirs,
                };
                if !seen.contains(&moment) {
                    seen.push(moment);
                }
                check(
                    side,
                    other,
                    moment,
                    operation,
                    &format!("ik {ik}, role {role}, {done} done, {moment:?}, {operation:?}"),
                );
            }
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

fn check(mut side: HandshakeState, mut other: HandshakeState, moment: Moment, operation: Operation, what: &str) {
    let (outcome, goes_on) = expected(moment, operation);
    let (hash, mut out) = (*side.handshake_hash(), b"before".to_vec());
    let result = match operation {
        Operation::Write => side.write_message(b"payload", &mut out),
        Operation::WriteTooLong => side.write_message(&[0; MAX_MESSAGE_LEN], &mut out),
        Operation::Read => {
            let due = if other.is_my_turn() { write(&mut other) } else { vec![1; 200] };
            side.read_message(&due).map(|payload| assert_eq!(payload, b"payload", "{what}"))
        }
        Operation::ReadShort => side.read_message(&[1; 31]).map(drop),
        Operation::ReadTooLong => side.read_message(&vec![1; MAX_MESSAGE_LEN + 1]).map(drop),
        Operation::Split => {
            let again = side.split().map(drop);
            return assert_eq!(again, outcome, "{what}");
        }
    };
    assert_eq!(result, outcome, "{what}");
    if result.is_err() {
        assert_eq!(out, b"before", "{what}: nothing is left behind");
    }
    let [mut message, mut bytes] = [Vec::new(), Vec::new()];
    match (outcome, goes_on, moment) {
        // It failed, and every later call says so.
        (_, false, _) => {
            assert_eq!(side.write_message(b"", &mut bytes), Err(NoiseError::HandshakeFailed), "{what}");
            assert_eq!(side.read_message(&[]), Err(NoiseError::HandshakeFailed), "{what}");
            assert_eq!(side.split().map(drop), Err(NoiseError::HandshakeFailed), "{what}");
        }
        // It was refused, and nothing has changed.
        (Err(_), true, _) => {
            assert_eq!(side.handshake_hash(), &hash, "{what}");
            match moment {
                Moment::Mine => side.write_message(b"payload", &mut message).expect(what),
                Moment::Theirs if other.is_my_turn() => {
                    other.write_message(b"payload", &mut message).expect(what);
                    side.read_message(&message).map(drop).expect(what);
                }
                Moment::Theirs | Moment::Complete | Moment::Failed => {}
            }
        }
        (Ok(()), true, _) => assert_ne!(side.handshake_hash(), &hash, "{what}: the transcript grew"),
    }
}
