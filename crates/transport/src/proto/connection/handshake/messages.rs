//! The handshake's messages: how each is read, and how its answer is written.

use peerage_core::{CloseReason, NodeId};
use peerage_wire::{RecordKind, put_record};

use super::{Channel, ConnectionConfig, Failure, Pattern, Secured, VERSION_SHIFT};
use crate::proto::{
    connection::early,
    noise::{
        HandshakeState, NoiseError,
        identity::{
            Hello, MAX_LISTEN_ADDRESSES, ProofError, RemoteIdentity, read_first_message, read_first_proof, read_proof,
            write_first_proof, write_proof,
        },
    },
};

/// What message 1 of IK names for a version: the responder is still to choose one.
pub(super) const NO_VERSION: u8 = 0;

/// The version that a proof names.
pub(super) const fn version_of(remote: &RemoteIdentity) -> u8 {
    (remote.hello.features() >> VERSION_SHIFT) as u8
}

/// What a proof that does not hold ends with.
pub(super) const fn proof_reason(error: ProofError) -> CloseReason {
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

/// Message 1 of XX at the responder; message 2 is its answer.
pub(super) fn read_first(
    config: &ConnectionConfig,
    noise: &mut HandshakeState,
    version: u8,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    read_first_message(noise, message).map_err(|error| Failure::refuse(proof_reason(error)))?;
    write_message(config, noise, version, out).map_err(|_| Failure::refuse(CloseReason::BadHandshake))
}

/// Message 1 of IK at the responder; message 2 is its answer, and the last. `None` and no answer if it was made for another
/// static key than ours.
pub(super) fn read_first_of_ik(
    config: &ConnectionConfig,
    mut noise: HandshakeState,
    version: u8,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<Option<Secured>, Failure> {
    let (remote, words) = match read_first_proof(&mut noise, message, config.keypair.node_id()) {
        Ok(read) => read,
        // Its first tag, that of the initiator's static key, holds under our static key and no other.
        Err(ProofError::Noise(NoiseError::Authentication)) if noise.remote_static().is_none() => {
            return Ok(None);
        }
        Err(error) => return Err(Failure::refuse(proof_reason(error))),
    };
    if version_of(&remote) != NO_VERSION {
        return Err(Failure::refuse(CloseReason::BadHandshake));
    }
    let early = early::decode(config, &words).map_err(Failure::refuse)?;
    write_message(config, &mut noise, version, out).map_err(|_| Failure::refuse(CloseReason::BadHandshake))?;
    let keys = noise.split().expect("message 2 was written just now");
    Ok(Some(Secured { early, ..Secured::new(config, Channel::Noise { pattern: Pattern::Ik, keys }, &remote) }))
}

/// Message 2 at the initiator. In XX message 3 is its answer; in IK it is the last, and a refusal comes under its keys.
pub(super) fn read_second(
    config: &ConnectionConfig,
    pattern: Pattern,
    mut noise: HandshakeState,
    expected: Option<NodeId>,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<Secured, Failure> {
    let remote = match read_proof(&mut noise, message, config.keypair.node_id()) {
        Ok(remote) => remote,
        Err(error) => return Err(Failure::after_keys(proof_reason(error), noise)),
    };
    let (min, max) = config.versions;
    if !(min..=max).contains(&version_of(&remote)) {
        return Err(Failure::after_keys(CloseReason::WrongVersion, noise));
    }
    if expected.is_some_and(|expected| expected != remote.node_id) {
        return Err(Failure::after_keys(CloseReason::WrongPeer, noise));
    }
    if pattern.initiator_speaks_last() {
        write_message(config, &mut noise, version_of(&remote), out)
            .map_err(|_| Failure::refuse(CloseReason::BadHandshake))?;
    }
    let keys = noise.split().expect("the last message was read or written just now");
    Ok(Secured::new(config, Channel::Noise { pattern, keys }, &remote))
}

/// Message 3 of XX at the responder.
pub(super) fn read_third(
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
    Ok(Secured::new(config, Channel::Noise { pattern: Pattern::Xx, keys }, &remote))
}

/// Appends message 1 of IK, with these early words. It fails only if no secret can be made with the key.
pub(super) fn write_first_of_ik(
    config: &ConnectionConfig,
    noise: &mut HandshakeState,
    words: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), NoiseError> {
    let mut message = Vec::new();
    write_first_proof(noise, &config.keypair, &hello(config, NO_VERSION), words, &mut message)?;
    put_record(out, config.magic, RecordKind::Handshake, |out| out.extend_from_slice(&message));
    Ok(())
}

/// Appends our next message with our proof. It fails only on a key of the other side's that yields no secret.
pub(super) fn write_message(
    config: &ConnectionConfig,
    noise: &mut HandshakeState,
    version: u8,
    out: &mut Vec<u8>,
) -> Result<(), NoiseError> {
    let mut message = Vec::new();
    write_proof(noise, &config.keypair, &hello(config, version), &mut message)?;
    put_record(out, config.magic, RecordKind::Handshake, |out| out.extend_from_slice(&message));
    Ok(())
}

/// What we say about ourselves once we are authenticated.
pub(super) fn hello(config: &ConnectionConfig, version: u8) -> Hello {
    let features = config.offered() | u64::from(version) << VERSION_SHIFT;
    let listen = config.listen.iter().take(MAX_LISTEN_ADDRESSES).copied().collect();
    Hello::new(features, listen).expect("cut to the number of addresses that are allowed")
}
