//! The identity proof: which Ed25519 identity owns the X25519 static key of a handshake.
//!
//! The message in which a side sends or uses its static key (2 and 3 of XX, 1 and 2 of IK) carries as payload the sender's
//! public key and its signature over `16 | "peerage-noise-v1" | role | h | static`: role is 0x00 for the initiator and
//! 0x01 for the responder, h the handshake hash after the previous message, static the sender's X25519 public key. The
//! role keeps a proof from being sent back to its author, and a stolen X25519 key is worth nothing without the identity.
//!
//! In messages 2 and 3, h already holds the other side's ephemeral, so a proof is good for one handshake only. Before
//! message 1 of IK, h holds the prologue and the responder's static key, and no more is known: that proof is good for
//! one responder during the life of its process, and whoever repeats the message proves nothing by it. Hence nobody counts
//! there before a first record under the keys, which only who made the message can seal.
//!
//! A payload is `body length u16 | body | zeros` up to the next multiple of 256 bytes, so that its length does not
//! tell how many addresses a node has. Message 1 of XX has no payload: it would travel in clear. In message 1 of IK there may
//! stand `length u16 | words` between the body and the zeros: what the initiator says before it is known to be there.

use std::net::SocketAddr;

use peerage_core::NodeId;
use peerage_wire::payload;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{DHLEN, HASHLEN, HandshakeState, NoiseError, Role};
use crate::proto::keypair::{Keypair, signing_input, verify_strict};

/// Keeps these signatures apart from every other one of the same identity.
const DOMAIN: &str = "peerage-noise-v1";

/// A payload's length is a multiple of this. A body without addresses has about 110 bytes and with four of IPv6 187,
/// so one block holds them all.
const BLOCK: usize = 256;

/// The longest payload accepted, in bytes: four blocks, our guess at what later versions may need.
const MAX_PAYLOAD: usize = 4 * BLOCK;

/// Early words in bytes at most (our guess: a question of thirty-two bytes many times over, and with a proof of four addresses
/// still within the longest payload).
pub const MAX_EARLY: usize = 512;

/// How many listen addresses a node may name: as many as in its signed record.
pub const MAX_LISTEN_ADDRESSES: usize = 4;

/// What a node says about itself once it is authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    features: u64,
    listen: Vec<SocketAddr>,
}

/// More than [`MAX_LISTEN_ADDRESSES`] addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more than {MAX_LISTEN_ADDRESSES} listen addresses")]
pub struct TooManyAddresses;

impl Hello {
    /// `features` is a set of bits that both sides read; `listen` the addresses at which the node accepts
    /// connections, empty if it accepts none.
    ///
    /// # Errors
    /// [`TooManyAddresses`], the caller's fault.
    pub fn new(features: u64, listen: Vec<SocketAddr>) -> Result<Self, TooManyAddresses> {
        if listen.len() > MAX_LISTEN_ADDRESSES { Err(TooManyAddresses) } else { Ok(Self { features, listen }) }
    }

    /// The feature bits.
    pub const fn features(&self) -> u64 {
        self.features
    }

    /// The addresses at which the node claims to accept connections. Authenticated is only that it says so.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }
}

/// What a proof is about: this handshake, this side of it, this static key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The role of the side that proves its identity.
    pub role: Role,
    /// The handshake hash after the message before the one that carries the proof.
    pub handshake_hash: [u8; HASHLEN],
    /// The X25519 static public key of the side that proves its identity.
    pub static_key: [u8; DHLEN],
}

impl Claim {
    fn signed_bytes(&self, role: Role) -> Vec<u8> {
        let mut input = signing_input(DOMAIN);
        input.push(role_byte(role));
        input.extend_from_slice(&self.handshake_hash);
        input.extend_from_slice(&self.static_key);
        input
    }
}

/// A role in signed bytes.
pub(in crate::proto) const fn role_byte(role: Role) -> u8 {
    match role {
        Role::Initiator => 0x00,
        Role::Responder => 0x01,
    }
}

/// The peer, proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// Its identity. Whether it is the one that was dialled is for the caller to compare.
    pub node_id: NodeId,
    /// What it says about itself.
    pub hello: Hello,
}

/// A handshake message that proves no identity. All are the sender's fault but [`Oneself`](Self::Oneself) and those of
/// [`NoiseError`] that say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The message is no Noise message of this handshake.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The first message carries a payload.
    #[error("the first handshake message carries a payload")]
    UnexpectedPayload,
    /// The padding is not zeros, or not up to the next multiple of 256 bytes.
    #[error("handshake payload is not padded with zeros to the next multiple of {BLOCK} bytes")]
    Padding,
    /// The body is not the canonical encoding of a proof.
    #[error("handshake payload is malformed")]
    Malformed,
    /// It names too many addresses.
    #[error(transparent)]
    TooManyAddresses(#[from] TooManyAddresses),
    /// The signature was made for the opposite role: our own words sent back.
    #[error("identity proof was made for the opposite role")]
    WrongRole,
    /// The signature does not fit identity, transcript and static key.
    #[error("identity proof is not signed by the identity it names")]
    BadSignature,
    /// We have reached ourselves, under an address that somebody gave us. Nobody's fault.
    #[error("connected to oneself")]
    Oneself,
}

impl ProofError {
    /// Whether the sender of the message is to blame.
    pub const fn is_remote_fault(self) -> bool {
        match self {
            Self::Noise(error) => error.is_remote_fault(),
            Self::Oneself => false,
            _ => true,
        }
    }
}

/// The body of a payload, in the wire's canonical encoding.
#[derive(Serialize, Deserialize)]
struct Body {
    identity: NodeId,
    /// An Ed25519 signature is the point R, then the scalar S (RFC 8032, 5.1.6).
    signature: [[u8; 32]; 2],
    features: u64,
    listen: Vec<SocketAddr>,
}

/// The payload by which `identity` proves `claim`.
pub fn seal_payload(identity: &Keypair, claim: &Claim, hello: &Hello) -> Vec<u8> {
    seal_signed(identity, &claim.signed_bytes(claim.role), hello)
}

/// The payload of message 1 of IK: as [`seal_payload`], with `early` words of [`MAX_EARLY`] bytes at most.
pub fn seal_first_payload(identity: &Keypair, claim: &Claim, hello: &Hello, early: &[u8]) -> Vec<u8> {
    let mut payload = proof(identity, &claim.signed_bytes(claim.role), hello);
    if let Some(len) = u16::try_from(early.len()).ok().filter(|len| (1..=MAX_EARLY).contains(&usize::from(*len))) {
        payload.extend_from_slice(&len.to_be_bytes());
        payload.extend_from_slice(early);
    }
    pad(payload)
}

/// The payload by which `identity` proves what these bytes say.
pub(in crate::proto) fn seal_signed(identity: &Keypair, signed: &[u8], hello: &Hello) -> Vec<u8> {
    pad(proof(identity, signed, hello))
}

/// The body of a payload, behind its length.
fn proof(identity: &Keypair, signed: &[u8], hello: &Hello) -> Vec<u8> {
    let signature = identity.sign(signed);
    let (r, s) = signature.split_at(32);
    let body = payload::to_bytes(&Body {
        identity: identity.node_id(),
        signature: [r, s].map(|half| half.try_into().expect("half of 64 bytes")),
        features: hello.features,
        listen: hello.listen.clone(),
    });
    let len = u16::try_from(body.len()).expect("a body of four addresses at most has 187 bytes at most");
    [len.to_be_bytes().as_slice(), &body].concat()
}

/// A payload up to the end of its last block.
fn pad(mut payload: Vec<u8>) -> Vec<u8> {
    payload.resize(payload.len().next_multiple_of(BLOCK), 0);
    payload
}

/// Checks a payload that should prove `claim`; `own` is the identity of whoever reads it.
///
/// # Errors
/// Every [`ProofError`] but [`Noise`](ProofError::Noise) and [`UnexpectedPayload`](ProofError::UnexpectedPayload).
pub fn open_payload(payload: &[u8], claim: &Claim, own: NodeId) -> Result<RemoteIdentity, ProofError> {
    open_signed(payload, own, claim.role, |role| claim.signed_bytes(role))
}

/// Checks the payload of message 1 of IK, as [`open_payload`]: who sent it, and its early words, of which there may be none.
///
/// # Errors
/// Those of [`open_payload`], and [`Malformed`](ProofError::Malformed) for more than [`MAX_EARLY`] bytes of them.
pub fn open_first_payload<'a>(
    payload: &'a [u8],
    claim: &Claim,
    own: NodeId,
) -> Result<(RemoteIdentity, &'a [u8]), ProofError> {
    let (body, early) = unpad(payload)?;
    if early.len() > MAX_EARLY {
        return Err(ProofError::Malformed);
    }
    Ok((verify(body, own, claim.role, |role| claim.signed_bytes(role))?, early))
}

/// Checks a payload that should prove what `signed` says for the sender's role; `own` is the identity of whoever reads it.
///
/// # Errors
/// Those of [`open_payload`].
pub(in crate::proto) fn open_signed(
    payload: &[u8],
    own: NodeId,
    role: Role,
    signed: impl Fn(Role) -> Vec<u8>,
) -> Result<RemoteIdentity, ProofError> {
    match unpad(payload)? {
        (body, []) => verify(body, own, role, signed),
        // Only message 1 of IK has more than a proof.
        _ => Err(ProofError::Padding),
    }
}

/// Checks the body of a payload.
fn verify(
    body: &[u8],
    own: NodeId,
    role: Role,
    signed: impl Fn(Role) -> Vec<u8>,
) -> Result<RemoteIdentity, ProofError> {
    let body: Body = payload::from_bytes(body, MAX_PAYLOAD).map_err(|_| ProofError::Malformed)?;
    let hello = Hello::new(body.features, body.listen)?;
    let signature = body.signature.as_flattened().try_into().expect("twice 32 bytes are 64");
    let made_for = |role| verify_strict(body.identity, &signed(role), signature).is_ok();
    if !made_for(role) {
        // The second check only names the failure; it is paid once, by a connection that ends here.
        return Err(if made_for(role.opposite()) { ProofError::WrongRole } else { ProofError::BadSignature });
    }
    if body.identity == own {
        return Err(ProofError::Oneself);
    }
    Ok(RemoteIdentity { node_id: body.identity, hello })
}

/// The body and the early words within their padding.
fn unpad(payload: &[u8]) -> Result<(&[u8], &[u8]), ProofError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(ProofError::Malformed);
    }
    let (body, rest) = counted(payload).ok_or(ProofError::Malformed)?;
    // Zeros are padding and no length: no early words are none.
    let (early, padding) = match rest.first_chunk() {
        None | Some([0, 0]) => (&[][..], rest),
        Some(_) => counted(rest).ok_or(ProofError::Padding)?,
    };
    let said = payload.len() - padding.len();
    let padded = payload.len() == said.next_multiple_of(BLOCK) && padding.iter().all(|&byte| byte == 0);
    if padded { Ok((body, early)) } else { Err(ProofError::Padding) }
}

/// Splits off what has its length in front.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Reads message 1 of XX, which must carry nothing.
///
/// # Errors
/// [`ProofError::Noise`], [`ProofError::UnexpectedPayload`].
pub fn read_first_message(handshake: &mut HandshakeState, message: &[u8]) -> Result<(), ProofError> {
    if handshake.read_message(message)?.is_empty() { Ok(()) } else { Err(ProofError::UnexpectedPayload) }
}

/// Appends the next handshake message to `out`, with `identity`'s proof and `hello` for payload.
///
/// # Errors
/// Those of [`HandshakeState::write_message`].
pub fn write_proof(
    handshake: &mut HandshakeState,
    identity: &Keypair,
    hello: &Hello,
    out: &mut Vec<u8>,
) -> Result<(), NoiseError> {
    handshake.write_message(&seal_payload(identity, &own_claim(handshake), hello), out)
}

/// As [`write_proof`] for message 1 of IK, with early words of [`MAX_EARLY`] bytes at most; more are left out.
///
/// # Errors
/// Those of [`HandshakeState::write_message`].
pub fn write_first_proof(
    handshake: &mut HandshakeState,
    identity: &Keypair,
    hello: &Hello,
    early: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), NoiseError> {
    handshake.write_message(&seal_first_payload(identity, &own_claim(handshake), hello, early), out)
}

/// What we prove with our next message.
fn own_claim(handshake: &HandshakeState) -> Claim {
    Claim { role: handshake.role(), handshake_hash: *handshake.handshake_hash(), static_key: *handshake.local_static() }
}

/// Reads the next handshake message and checks the proof in it; `own` is our identity.
///
/// # Errors
/// Every [`ProofError`] but [`UnexpectedPayload`](ProofError::UnexpectedPayload). The handshake is to be dropped then.
pub fn read_proof(handshake: &mut HandshakeState, message: &[u8], own: NodeId) -> Result<RemoteIdentity, ProofError> {
    let (payload, claim) = read_payload(handshake, message)?;
    open_payload(&payload, &claim, own)
}

/// As [`read_proof`] for message 1 of IK: with the early words, which are those of whoever said them first.
///
/// # Errors
/// Those of [`read_proof`] and [`open_first_payload`]. The handshake is to be dropped then.
pub fn read_first_proof(
    handshake: &mut HandshakeState,
    message: &[u8],
    own: NodeId,
) -> Result<(RemoteIdentity, Vec<u8>), ProofError> {
    let (payload, claim) = read_payload(handshake, message)?;
    open_first_payload(&payload, &claim, own).map(|(remote, early)| (remote, early.to_vec()))
}

/// The payload of the next message, and what it must prove.
fn read_payload(handshake: &mut HandshakeState, message: &[u8]) -> Result<(Vec<u8>, Claim), ProofError> {
    let handshake_hash = *handshake.handshake_hash();
    let payload = handshake.read_message(message)?;
    // Message 1 of XX has neither proof nor static key, and no peer can make us look for one in it.
    let static_key = *handshake.remote_static().ok_or(NoiseError::OutOfTurn)?;
    Ok((payload, Claim { role: handshake.role().opposite(), handshake_hash, static_key }))
}
