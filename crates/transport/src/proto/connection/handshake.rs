//! From the first byte to keys: preamble, Noise XX, identity proofs, refusals. All in clear records.
//!
//! ```text
//! initiator                                     responder
//! PREAMBLE | HANDSHAKE 1: e             ->      magic, version, network, suite
//!                                       <-      HANDSHAKE 2: e, ee, s, es, proof, chosen version
//! HANDSHAKE 3: s, se, proof | sealed..  ->
//! ```

use core::net::SocketAddr;

use peerage_core::{CloseReason, Closed, NodeId, SecretRng, Timestamp};
use peerage_wire::{DecodeError, Preamble, Record, RecordDecoder, RecordKind, decode_reason, put_record};

use super::ConnectionConfig;
use crate::proto::noise::{
    CipherState, HandshakeState, Role, Split,
    identity::{Hello, MAX_LISTEN_ADDRESSES, ProofError, RemoteIdentity, read_first_message, read_proof, write_proof},
};

/// The beginning of the prologue; the preamble record follows, header included (parameters, 1.1).
const PROLOGUE: &[u8] = b"peerage-v1";

/// The number of the pattern XX in the preamble.
const PATTERN_XX: u8 = 1;

/// The number of the suite 25519_ChaChaPoly_SHA256 in the preamble.
const SUITE_CHACHAPOLY: u8 = 1;

/// The agreed wire version travels in the top byte of the feature bits of both proofs, encrypted and authenticated: the
/// record header is neither.
const VERSION_SHIFT: u32 = 56;

/// The feature bits proper.
const FEATURES: u64 = (1 << VERSION_SHIFT) - 1;

/// A handshake under way.
#[derive(Debug)]
pub(super) struct Handshake {
    /// `None` once it failed or is done.
    step: Option<Step>,
    decoder: RecordDecoder,
    deadline: Timestamp,
}

/// What is waited for.
#[derive(Debug)]
enum Step {
    /// The responder waits for the first record.
    Preamble,
    /// The responder waits for message 1.
    First { noise: HandshakeState, version: u8 },
    /// The initiator waits for message 2.
    Second { noise: HandshakeState, expected: Option<NodeId> },
    /// The responder waits for message 3.
    Third { noise: HandshakeState, version: u8 },
}

/// What a handshake yields.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) keys: Split,
    pub(super) peer: NodeId,
    /// Offered by both.
    pub(super) features: u64,
    pub(super) listen: Vec<SocketAddr>,
}

/// Why there is no connection, and what the other side is told.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) closed: Closed,
    pub(super) answer: Answer,
}

#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing: it ended the connection itself, or does not speak our language.
    Silence,
    /// A REFUSE record in clear.
    Refuse,
    /// A CLOSE record under this key: the other side has its keys already.
    Close(CipherState),
}

impl Failure {
    fn refuse(reason: CloseReason) -> Self {
        Self { closed: Closed::by_us(reason), answer: Answer::Refuse }
    }

    fn silent(closed: Closed) -> Self {
        Self { closed, answer: Answer::Silence }
    }

    /// For when message 3 was read: the keys stand, whatever else is wrong.
    fn after_keys(reason: CloseReason, noise: HandshakeState) -> Self {
        match noise.split() {
            Ok(keys) => Self { closed: Closed::by_us(reason), answer: Answer::Close(keys.send) },
            Err(_) => Self::refuse(reason),
        }
    }
}

impl Handshake {
    /// Begins as the initiator: preamble and message 1 are appended to `out`.
    pub(super) fn dial(
        config: &ConnectionConfig,
        expected: Option<NodeId>,
        deadline: Timestamp,
        rng: &mut SecretRng,
        out: &mut Vec<u8>,
    ) -> Self {
        let (version_min, version_max) = config.versions;
        let (network, pattern, suite) = (config.network, PATTERN_XX, SUITE_CHACHAPOLY);
        let preamble = Preamble { version_min, version_max, network, pattern, suite, flags: 0 };
        let start = out.len();
        put_record(out, config.magic, RecordKind::Preamble, |out| out.extend_from_slice(&preamble.encode()));
        let mut noise = xx(Role::Initiator, config, &out[start..], rng);
        put_record(out, config.magic, RecordKind::Handshake, |out| {
            noise.write_message(&[], out).expect("message 1 is the initiator's and holds its ephemeral key alone");
        });
        Self { step: Some(Step::Second { noise, expected }), decoder: RecordDecoder::new(config.magic), deadline }
    }

    /// Begins as the responder.
    pub(super) fn listen(config: &ConnectionConfig, deadline: Timestamp) -> Self {
        Self { step: Some(Step::Preamble), decoder: RecordDecoder::new(config.magic), deadline }
    }

    pub(super) const fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Whether the other side may be told why there will be no connection: not before it has shown that it speaks our
    /// language, unless it is we who began to talk.
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
            self.step = Some(match (step, record.kind) {
                (Step::Preamble, RecordKind::Preamble) => read_preamble(config, rng, record)?,
                (Step::Preamble, _) => return Err(Failure::silent(Closed::by_us(CloseReason::UnexpectedRecord))),
                (Step::First { noise, version }, RecordKind::Handshake) => {
                    read_first(config, noise, version, record.payload(), out)?
                }
                (Step::Second { noise, expected }, RecordKind::Handshake) => {
                    return read_second(config, noise, expected, record.payload(), out).map(Some);
                }
                (Step::Third { noise, version }, RecordKind::Handshake) => {
                    return read_third(config, noise, version, record.payload()).map(Some);
                }
                _ => return Err(Failure::refuse(CloseReason::UnexpectedRecord)),
            });
        }
    }
}

/// A fresh handshake over a preamble record.
fn xx(role: Role, config: &ConnectionConfig, preamble: &[u8], rng: &mut SecretRng) -> HandshakeState {
    HandshakeState::xx(role, &[PROLOGUE, preamble].concat(), config.static_key.clone(), rng)
}

/// What we say about ourselves once we are authenticated.
fn hello(config: &ConnectionConfig, version: u8) -> Hello {
    let features = config.features & FEATURES | u64::from(version) << VERSION_SHIFT;
    let listen = config.listen.iter().take(MAX_LISTEN_ADDRESSES).copied().collect();
    Hello::new(features, listen).expect("cut to the number of addresses that are allowed")
}

/// The version that a proof names.
const fn version_of(remote: &RemoteIdentity) -> u8 {
    (remote.hello.features() >> VERSION_SHIFT) as u8
}

fn secured(config: &ConnectionConfig, keys: Split, remote: &RemoteIdentity) -> Secured {
    let features = config.features & remote.hello.features() & FEATURES;
    Secured { keys, peer: remote.node_id, features, listen: remote.hello.listen().to_vec() }
}

const fn proof_reason(error: ProofError) -> CloseReason {
    match error {
        ProofError::Noise(_)
        | ProofError::UnexpectedPayload
        | ProofError::Padding
        | ProofError::Malformed
        | ProofError::TooManyAddresses(_) => CloseReason::BadHandshake,
        ProofError::WrongRole | ProofError::BadSignature => CloseReason::BadProof,
        ProofError::Oneself => CloseReason::SelfConnection,
    }
}

fn read_preamble(config: &ConnectionConfig, rng: &mut SecretRng, record: Record<'_>) -> Result<Step, Failure> {
    let preamble =
        Preamble::decode(record.payload()).map_err(|error| Failure::silent(Closed::by_us(error.close_reason())))?;
    let (min, max) = config.versions;
    let version = max.min(preamble.version_max);
    if version < min.max(preamble.version_min) {
        return Err(Failure::refuse(CloseReason::WrongVersion));
    }
    if preamble.network != config.network {
        return Err(Failure::refuse(CloseReason::WrongNetwork));
    }
    if (preamble.pattern, preamble.suite) != (PATTERN_XX, SUITE_CHACHAPOLY) {
        return Err(Failure::refuse(CloseReason::WrongSuite));
    }
    Ok(Step::First { noise: xx(Role::Responder, config, record.raw, rng), version })
}

fn read_first(
    config: &ConnectionConfig,
    mut noise: HandshakeState,
    version: u8,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<Step, Failure> {
    read_first_message(&mut noise, message).map_err(|error| Failure::refuse(proof_reason(error)))?;
    write_message(config, &mut noise, version, out)?;
    Ok(Step::Third { noise, version })
}

fn read_second(
    config: &ConnectionConfig,
    mut noise: HandshakeState,
    expected: Option<NodeId>,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<Secured, Failure> {
    let remote = read_proof(&mut noise, message, config.keypair.node_id())
        .map_err(|error| Failure::refuse(proof_reason(error)))?;
    let (min, max) = config.versions;
    if !(min..=max).contains(&version_of(&remote)) {
        return Err(Failure::refuse(CloseReason::WrongVersion));
    }
    if expected.is_some_and(|expected| expected != remote.node_id) {
        return Err(Failure::refuse(CloseReason::WrongPeer));
    }
    write_message(config, &mut noise, version_of(&remote), out)?;
    let keys = noise.split().expect("message 3 was written just now");
    Ok(secured(config, keys, &remote))
}

fn read_third(
    config: &ConnectionConfig,
    mut noise: HandshakeState,
    version: u8,
    message: &[u8],
) -> Result<Secured, Failure> {
    let remote = match read_proof(&mut noise, message, config.keypair.node_id()) {
        Ok(remote) => remote,
        Err(error) => return Err(Failure::after_keys(proof_reason(error), noise)),
    };
    if version_of(&remote) != version {
        return Err(Failure::after_keys(CloseReason::BadHandshake, noise));
    }
    let keys = noise.split().expect("message 3 was read just now");
    Ok(secured(config, keys, &remote))
}

/// Appends our next message with our proof. It fails only on a key of the peer's that yields no secret.
fn write_message(
    config: &ConnectionConfig,
    noise: &mut HandshakeState,
    version: u8,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let mut message = Vec::new();
    write_proof(noise, &config.keypair, &hello(config, version), &mut message)
        .map_err(|_| Failure::refuse(CloseReason::BadHandshake))?;
    put_record(out, config.magic, RecordKind::Handshake, |out| out.extend_from_slice(&message));
    Ok(())
}
