//! From the first byte to keys: preamble, Noise XX or IK, identity proofs, refusals. All in clear records. On a stream that TLS
//! secures the proofs suffice: `certified.rs`.
//!
//! ```text
//! initiator                                     responder
//! PREAMBLE | HANDSHAKE 1: e             ->      magic, version, network, pattern, suite
//!                                       <-      HANDSHAKE 2: e, ee, s, es, proof, chosen version
//! HANDSHAKE 3: s, se, proof | sealed..  ->
//! ```
//! An initiator that knows the static key of the responder's process spares the third message, and hears from the responder
//! a round trip sooner:
//! ```text
//! PREAMBLE | HANDSHAKE 1: e, es, s, ss, proof  ->
//!                                              <-      HANDSHAKE 2: e, ee, se, proof, chosen version | sealed: PING
//! sealed: PONG, PING                           ->      only now the initiator counts
//! ```
//! Message 1 may ask something then (`early.rs`), and the answer comes right behind message 2.
//! If that key is no longer the responder's:
//! ```text
//! PREAMBLE | HANDSHAKE 1: e, es, s, ss, proof  ->
//!                                              <-      RETRY
//! HANDSHAKE 1: e                               ->      XX from here on, over both records as well
//! ```
//!
//! | state | input | output | next |
//! |---|---|---|---|
//! | `Preamble` | PREAMBLE of XX | | `First` |
//! | `Preamble` | PREAMBLE of IK | | `FirstOfIk` |
//! | `Preamble` | a TLS ClientHello | REFUSE | the end |
//! | `FirstOfIk` | message 1 | message 2 | keys; the caller waits for a record under them |
//! | `FirstOfIk` | message 1 for another static key | RETRY | `First` |
//! | `First` | message 1 | message 2 | `Third` |
//! | `Third` | message 3 | | keys |
//! | `SecondOfIk` | message 2 | | keys |
//! | `SecondOfIk` | RETRY | message 1 of XX | `Second` |
//! | `Second` | message 2 | message 3 | keys |
//! | `Preamble` | another record | | the end |
//! | each other | another record | REFUSE | the end |
//! | each | REFUSE | | the end |
//!
//! So there is one RETRY at most, and none in XX. Both sides hash it, and the message that it answers, into the prologue
//! of XX: whoever made one of them up, or changed it, gets no connection. A RETRY by itself proves nothing, and what was
//! known of the responder stays known until XX has proved another key.
//!
//! Another pattern is a number and its properties in [`Pattern`], steps here with a row above, messages in `messages.rs`, and
//! its tokens in `noise`; the compiler asks for the rest.

mod certified;
mod messages;
mod outcome;

use core::ops::ControlFlow;

use peerage_core::{CloseReason, Closed, DialKey, Message, NodeId, SecretRng, Timestamp};
use peerage_wire::{DecodeError, Preamble, Record, RecordDecoder, RecordKind, decode_reason, put_record};
use sha2::{Digest, Sha256};

use super::{ConnectionConfig, early};
use crate::proto::noise::{HandshakeState, Role};
use certified::Certified;
pub use certified::Session;
use messages::{read_first, read_first_of_ik, read_second, read_third, write_first_of_ik};
pub(super) use outcome::{Answer, Channel, Failure, Secured};

/// The beginning of the prologue; the preamble record follows, header included (parameters, 1.1).
const PROLOGUE: &[u8] = b"peerage-v1";

/// The number of the suite 25519_ChaChaPoly_SHA256 in the preamble.
const SUITE_CHACHAPOLY: u8 = 1;

/// The agreed wire version travels in the top byte of the feature bits of the proofs, encrypted and authenticated: the
/// record header is neither.
const VERSION_SHIFT: u32 = 56;

/// The feature bits proper.
pub(super) const FEATURES: u64 = (1 << VERSION_SHIFT) - 1;

/// The handshake pattern; its number in the preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pattern {
    /// Neither side knows a key of the other.
    Xx = 1,
    /// The initiator knows the responder's static key.
    Ik = 2,
}

impl Pattern {
    /// The pattern of a number in a preamble, if we speak it.
    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Xx),
            2 => Some(Self::Ik),
            _ => None,
        }
    }

    /// Whether the last message is the initiator's: then it is the responder who may refuse it when the initiator has keys
    /// already.
    pub(super) const fn initiator_speaks_last(self) -> bool {
        match self {
            Self::Xx => true,
            Self::Ik => false,
        }
    }

    /// Whether all that the responder has heard may be what somebody else said to it before: then the initiator counts only
    /// once it has sealed a record, and that record is a greeting, with nothing of the layers above.
    pub(super) const fn first_may_be_repeated(self) -> bool {
        match self {
            Self::Xx => false,
            Self::Ik => true,
        }
    }
}

/// A handshake under way.
#[derive(Debug)]
pub(super) struct Handshake {
    /// `None` once it failed or is done.
    pub(super) step: Option<Step>,
    decoder: RecordDecoder,
    /// How many of the first bytes are those of a TLS ClientHello; `None` once they can be no more.
    client_hello: Option<usize>,
    deadline: Timestamp,
}

/// The bytes by which a TLS ClientHello is known: a record (RFC 8446, 5.1) of handshake messages, some version 3 and length,
/// whose first message is that (4). `None` may be anything.
const CLIENT_HELLO: [Option<u8>; 6] = [Some(0x16), Some(0x03), None, None, None, Some(0x01)];

/// What is waited for.
#[derive(Debug)]
pub(super) enum Step {
    /// The responder waits for the first record.
    Preamble,
    /// The responder waits for message 1 of XX.
    First { noise: HandshakeState, version: u8 },
    /// The responder waits for message 1 of IK.
    FirstOfIk { noise: HandshakeState, version: u8, prologue: Vec<u8> },
    /// The initiator waits for message 2 of XX.
    Second { noise: HandshakeState, expected: Option<NodeId> },
    /// The initiator waits for message 2 of IK, or for RETRY. `first` is the record of its message 1, which asked `question`.
    SecondOfIk {
        noise: HandshakeState,
        expected: Option<NodeId>,
        prologue: Vec<u8>,
        first: Vec<u8>,
        question: Option<Message>,
    },
    /// The responder waits for message 3.
    Third { noise: HandshakeState, version: u8 },
    /// Proofs alone, on a secured stream.
    Certified(Box<Certified>),
}

/// Whom to dial.
#[derive(Debug, Default)]
pub(super) struct Whom {
    /// Who must answer; anyone if `None`.
    pub(super) expected: Option<NodeId>,
    /// The key that its process may have.
    pub(super) dial_key: Option<DialKey>,
    /// What to ask with message 1 if it is one of IK.
    pub(super) question: Option<Message>,
}

/// Where a record has led: to another step, or to keys.
type Next = ControlFlow<Secured, Step>;

impl Handshake {
    /// Begins as the initiator: preamble and message 1 are appended to `out`, of IK if the responder's static key is known.
    pub(super) fn dial(
        config: &ConnectionConfig,
        whom: Whom,
        deadline: Timestamp,
        rng: &mut SecretRng,
        out: &mut Vec<u8>,
    ) -> Self {
        let Whom { expected, dial_key, question } = whom;
        // A key with which no secret can be made, which no handshake ever proved, is as good as none.
        let step = dial_key.and_then(|key| dial_ik(config, expected, key, question, rng, out));
        let step = step.unwrap_or_else(|| {
            let prologue = prologue_of(config, Pattern::Xx, out);
            dial_xx(config, &prologue, expected, rng, out)
        });
        Self::begin(config, step, deadline)
    }

    /// Begins as the responder.
    pub(super) fn listen(config: &ConnectionConfig, deadline: Timestamp) -> Self {
        Self { client_hello: Some(0), ..Self::begin(config, Step::Preamble, deadline) }
    }

    /// Begins on a stream that TLS has secured. An initiator's first words are appended to `out`.
    ///
    /// # Errors
    /// The certificate names somebody else than who was dialled, or us.
    pub(super) fn certified(
        config: &ConnectionConfig,
        session: Session,
        dialled: Option<Option<NodeId>>,
        deadline: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<Self, Failure> {
        let certified = match dialled {
            Some(expected) => Certified::dial(config, session, expected, out)?,
            None => Certified::listen(config, session)?,
        };
        Ok(Self::begin(config, Step::Certified(Box::new(certified)), deadline))
    }

    const fn begin(config: &ConnectionConfig, step: Step, deadline: Timestamp) -> Self {
        Self { step: Some(step), decoder: RecordDecoder::new(config.magic), client_hello: None, deadline }
    }

    pub(super) const fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Whether the other side may be told why there will be no connection: not before it has shown that it speaks our
    /// language, unless it is we who began to talk, or it has shown a certificate.
    pub(super) const fn may_refuse(&self) -> bool {
        !matches!(self.step, Some(Step::Preamble))
    }

    /// Reads records off the front of `input` and appends the answers to `out`, until keys stand or the input is used
    /// up. After an error the handshake is over.
    pub(super) fn read(
        &mut self,
        config: &ConnectionConfig,
        rng: &mut SecretRng,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Secured>, Failure> {
        let silence = |error: DecodeError| Failure::silent(Closed::by_us(error.close_reason()));
        self.look_for_tls(input)?;
        loop {
            let may_refuse = self.may_refuse();
            let record = match self.decoder.read(input) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(None),
                Err(error @ DecodeError::WrongMagic { .. }) => return Err(silence(error)),
                Err(error) if may_refuse => return Err(Failure::refuse(error.close_reason())),
                Err(error) => return Err(silence(error)),
            };
            let Some(step) = self.step.take() else { return Ok(None) };
            if record.kind == RecordKind::Refuse {
                let reason = decode_reason(record.kind, record.payload()).unwrap_or(CloseReason::Unknown);
                return Err(Failure::silent(Closed::by_them(reason)));
            }
            match step.read(config, rng, record, out)? {
                ControlFlow::Continue(step) => self.step = Some(step),
                ControlFlow::Break(secured) => return Ok(Some(secured)),
            }
        }
    }
}

impl Handshake {
    /// Whoever begins with a whole ClientHello is told that we speak something else; any other beginning is for the decoder.
    fn look_for_tls(&mut self, input: &mut &[u8]) -> Result<(), Failure> {
        while let Some(seen) = self.client_hello {
            let Some((&byte, rest)) = input.split_first() else { return Ok(()) };
            if CLIENT_HELLO[seen].is_some_and(|expected| expected != byte) {
                self.client_hello = None;
                // Our magic does not begin like that: if anything was taken for TLS, it is neither.
                return if seen == 0 { Ok(()) } else { Err(Failure::silent(Closed::by_us(CloseReason::WrongMagic))) };
            }
            *input = rest;
            if seen + 1 == CLIENT_HELLO.len() {
                return Err(Failure::refuse(CloseReason::OtherSecurity));
            }
            self.client_hello = Some(seen + 1);
        }
        Ok(())
    }
}

impl Step {
    fn read(
        self,
        config: &ConnectionConfig,
        rng: &mut SecretRng,
        record: Record<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Next, Failure> {
        let message = record.payload();
        match (self, record.kind) {
            (Self::Preamble, RecordKind::Preamble) => read_preamble(config, rng, record).map(Next::Continue),
            (Self::Preamble, _) => Err(Failure::silent(Closed::by_us(CloseReason::UnexpectedRecord))),
            (Self::First { mut noise, version }, RecordKind::Handshake) => {
                read_first(config, &mut noise, version, message, out)?;
                Ok(Next::Continue(Self::Third { noise, version }))
            }
            (Self::FirstOfIk { noise, version, prologue }, RecordKind::Handshake) => {
                match read_first_of_ik(config, noise, version, message, out)? {
                    Some(secured) => Ok(Next::Break(secured)),
                    None => {
                        let start = out.len();
                        put_record(out, config.magic, RecordKind::Retry, |_| {});
                        let prologue = after_retry(&prologue, record.raw, &out[start..]);
                        Ok(Next::Continue(Self::First { noise: xx(Role::Responder, config, &prologue, rng), version }))
                    }
                }
            }
            (Self::Second { noise, expected }, RecordKind::Handshake) => {
                read_second(config, Pattern::Xx, noise, expected, message, out).map(Next::Break)
            }
            (Self::SecondOfIk { noise, expected, question, .. }, RecordKind::Handshake) => {
                let secured = read_second(config, Pattern::Ik, noise, expected, message, out)?;
                Ok(Next::Break(Secured { early: question.map(|question| (early::ID, question)), ..secured }))
            }
            (Self::SecondOfIk { expected, prologue, first, .. }, RecordKind::Retry) => {
                let prologue = after_retry(&prologue, &first, record.raw);
                Ok(Next::Continue(dial_xx(config, &prologue, expected, rng, out)))
            }
            (Self::Third { noise, version }, RecordKind::Handshake) => {
                read_third(config, noise, version, message).map(Next::Break)
            }
            (Self::Certified(certified), kind) => Ok(match certified.read(config, kind, message, out)? {
                ControlFlow::Continue(certified) => Next::Continue(Self::Certified(Box::new(certified))),
                ControlFlow::Break(secured) => Next::Break(secured),
            }),
            _ => Err(Failure::refuse(CloseReason::UnexpectedRecord)),
        }
    }
}

/// Appends the preamble.
fn put_preamble(config: &ConnectionConfig, pattern: u8, suite: u8, out: &mut Vec<u8>) {
    let (version_min, version_max) = config.versions;
    let preamble = Preamble { version_min, version_max, network: config.network, pattern, suite, flags: 0 };
    put_record(out, config.magic, RecordKind::Preamble, |out| out.extend_from_slice(&preamble.encode()));
}

/// Appends the preamble; the prologue that it makes.
fn prologue_of(config: &ConnectionConfig, pattern: Pattern, out: &mut Vec<u8>) -> Vec<u8> {
    let start = out.len();
    put_preamble(config, pattern as u8, SUITE_CHACHAPOLY, out);
    [PROLOGUE, &out[start..]].concat()
}

/// The prologue of XX after RETRY. The two records are hashed, so that the responder need not keep them.
fn after_retry(prologue: &[u8], first: &[u8], retry: &[u8]) -> Vec<u8> {
    let said = Sha256::new().chain_update(first).chain_update(retry).finalize();
    [prologue, &said].concat()
}

/// A fresh handshake, with an ephemeral key of its own.
fn xx(role: Role, config: &ConnectionConfig, prologue: &[u8], rng: &mut SecretRng) -> HandshakeState {
    HandshakeState::xx(role, prologue, config.static_key.clone(), rng)
}

/// Appends message 1 of XX.
fn dial_xx(
    config: &ConnectionConfig,
    prologue: &[u8],
    expected: Option<NodeId>,
    rng: &mut SecretRng,
    out: &mut Vec<u8>,
) -> Step {
    let mut noise = xx(Role::Initiator, config, prologue, rng);
    put_record(out, config.magic, RecordKind::Handshake, |out| {
        noise.write_message(&[], out).expect("message 1 is the initiator's and holds its ephemeral key alone");
    });
    Step::Second { noise, expected }
}

/// Appends the preamble and message 1 of IK, or nothing if no secret can be made with the key.
fn dial_ik(
    config: &ConnectionConfig,
    expected: Option<NodeId>,
    DialKey(key): DialKey,
    question: Option<Message>,
    rng: &mut SecretRng,
    out: &mut Vec<u8>,
) -> Option<Step> {
    let words = question.as_ref().and_then(|question| early::encode(config, question));
    let start = out.len();
    let prologue = prologue_of(config, Pattern::Ik, out);
    let mut noise = HandshakeState::ik_initiator(&prologue, config.static_key.clone(), key, rng);
    let at = out.len();
    if write_first_of_ik(config, &mut noise, words.as_deref().unwrap_or_default(), out).is_err() {
        out.truncate(start);
        return None;
    }
    let question = question.filter(|_| words.is_some());
    Some(Step::SecondOfIk { noise, expected, prologue, first: out[at..].to_vec(), question })
}

/// Reads a preamble: what it says, and the version to speak.
fn agree(config: &ConnectionConfig, message: &[u8]) -> Result<(Preamble, u8), Failure> {
    let preamble = Preamble::decode(message).map_err(|error| Failure::silent(Closed::by_us(error.close_reason())))?;
    let (min, max) = config.versions;
    let version = max.min(preamble.version_max);
    if version < min.max(preamble.version_min) {
        return Err(Failure::refuse(CloseReason::WrongVersion));
    }
    if preamble.network != config.network {
        return Err(Failure::refuse(CloseReason::WrongNetwork));
    }
    Ok((preamble, version))
}

fn read_preamble(config: &ConnectionConfig, rng: &mut SecretRng, record: Record<'_>) -> Result<Step, Failure> {
    let (preamble, version) = agree(config, record.payload())?;
    if preamble.suite != SUITE_CHACHAPOLY {
        return Err(Failure::refuse(CloseReason::WrongSuite));
    }
    let prologue = [PROLOGUE, record.raw].concat();
    match Pattern::of(preamble.pattern) {
        Some(Pattern::Xx) => Ok(Step::First { noise: xx(Role::Responder, config, &prologue, rng), version }),
        Some(Pattern::Ik) => {
            let noise = HandshakeState::ik_responder(&prologue, config.static_key.clone(), rng);
            Ok(Step::FirstOfIk { noise, version, prologue })
        }
        None => Err(Failure::refuse(CloseReason::WrongSuite)),
    }
}
