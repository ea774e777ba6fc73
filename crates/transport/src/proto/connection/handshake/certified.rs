//! The handshake on a stream that mutual TLS secures: who the certificates name shows that it has that identity's key.
//!
//! ```text
//! initiator                                     responder
//!                      TLS 1.3, a certificate from each side
//! PREAMBLE | HANDSHAKE: proof           ->      magic, version, network
//!                                       <-      HANDSHAKE: proof, chosen version
//! ```
//! A proof is the payload of Noise's (`noise/identity.rs`), signed over
//! `14 | "peerage-tls-v1" | role | exporter | SHA-256 of the signer's certificate`. The exporter value (RFC 8446, 7.5) is of this
//! session alone, so a proof cannot be passed on to another. It does not cover the client's certificate, which comes later
//! in the transcript: hence the hash.
//!
//! In TLS 1.3 an initiator is done before the responder has judged its certificate. The responder's proof says that it was
//! accepted, so nobody counts before it.

use core::ops::ControlFlow;

use peerage_core::{CloseReason, Closed, NodeId};
use peerage_wire::{RecordKind, put_record};

use super::{
    Answer, Channel, ConnectionConfig, Failure, Secured,
    messages::{NO_VERSION, hello, proof_reason, version_of},
};
use crate::proto::{
    connection::records::LastWord,
    keypair::signing_input,
    noise::{
        Role,
        identity::{RemoteIdentity, open_signed, role_byte, seal_signed},
    },
};

/// Keeps these signatures apart from every other one of the same identity.
const DOMAIN: &str = "peerage-tls-v1";

/// The number of this handshake in the place of the pattern in the preamble.
pub(super) const PATTERN_CERTIFIED: u8 = 3;

/// The number in the place of the suite: TLS has agreed on one.
pub(super) const SUITE_BELOW: u8 = 0;

/// What a TLS session has agreed and shown, as the handshake above it needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The value that both sides export for us from this session, and that no other session has.
    pub exporter: [u8; 32],
    /// SHA-256 of the certificate that we showed.
    pub own_certificate: [u8; 32],
    /// SHA-256 of the certificate that they showed.
    pub remote_certificate: [u8; 32],
    /// The identity that their certificate names; they are still to prove that they have it.
    pub certified: NodeId,
}

/// This handshake under way.
#[derive(Debug)]
pub(in crate::proto::connection) struct Certified {
    session: Session,
    awaits: Awaits,
}

/// What is waited for.
#[derive(Debug)]
enum Awaits {
    /// The responder waits for the first record.
    Preamble,
    /// The responder waits for the initiator's proof.
    First { version: u8 },
    /// The initiator waits for the responder's proof.
    Second,
}

impl Certified {
    /// Begins as the initiator: preamble and proof are appended to `out`.
    pub(super) fn dial(
        config: &ConnectionConfig,
        session: Session,
        expected: Option<NodeId>,
        out: &mut Vec<u8>,
    ) -> Result<Self, Failure> {
        let this = Self::begin(config, session, Awaits::Second)?;
        if expected.is_some_and(|expected| expected != this.session.certified) {
            return Err(Failure::refuse(CloseReason::WrongPeer));
        }
        super::put_preamble(config, PATTERN_CERTIFIED, SUITE_BELOW, out);
        this.write_proof(config, Role::Initiator, NO_VERSION, out);
        Ok(this)
    }

    /// Begins as the responder.
    pub(super) fn listen(config: &ConnectionConfig, session: Session) -> Result<Self, Failure> {
        Self::begin(config, session, Awaits::Preamble)
    }

    fn begin(config: &ConnectionConfig, session: Session, awaits: Awaits) -> Result<Self, Failure> {
        if session.certified == config.keypair.node_id() {
            return Err(Failure::refuse(CloseReason::SelfConnection));
        }
        Ok(Self { session, awaits })
    }

    pub(super) fn read(
        mut self,
        config: &ConnectionConfig,
        kind: RecordKind,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<ControlFlow<Secured, Self>, Failure> {
        match (&self.awaits, kind) {
            (Awaits::Preamble, RecordKind::Preamble) => {
                let (preamble, version) = super::agree(config, message)?;
                if preamble.suite != SUITE_BELOW || preamble.pattern != PATTERN_CERTIFIED {
                    return Err(Failure::refuse(CloseReason::WrongSuite));
                }
                self.awaits = Awaits::First { version };
                Ok(ControlFlow::Continue(self))
            }
            (Awaits::First { version }, RecordKind::Handshake) => {
                let remote = self.read_proof(config, Role::Initiator, message).map_err(Failure::refuse)?;
                if version_of(&remote) != NO_VERSION {
                    return Err(Failure::refuse(CloseReason::BadHandshake));
                }
                self.write_proof(config, Role::Responder, *version, out);
                Ok(ControlFlow::Break(Secured::new(config, Channel::Below, &remote)))
            }
            (Awaits::Second, RecordKind::Handshake) => {
                self.read_second(config, message).map(ControlFlow::Break).map_err(close)
            }
            _ => Err(Failure::refuse(CloseReason::UnexpectedRecord)),
        }
    }

    fn read_second(&self, config: &ConnectionConfig, message: &[u8]) -> Result<Secured, CloseReason> {
        let remote = self.read_proof(config, Role::Responder, message)?;
        let (min, max) = config.versions;
        if !(min..=max).contains(&version_of(&remote)) {
            return Err(CloseReason::WrongVersion);
        }
        Ok(Secured::new(config, Channel::Below, &remote))
    }

    fn read_proof(&self, config: &ConnectionConfig, role: Role, message: &[u8]) -> Result<RemoteIdentity, CloseReason> {
        let Session { exporter, remote_certificate, certified, .. } = &self.session;
        let signed = |role| statement(role, exporter, remote_certificate);
        let remote = open_signed(message, config.keypair.node_id(), role, signed).map_err(proof_reason)?;
        // A certificate is worth the identity that it names, and no other.
        if remote.node_id != *certified { Err(CloseReason::BadCertificate) } else { Ok(remote) }
    }

    fn write_proof(&self, config: &ConnectionConfig, role: Role, version: u8, out: &mut Vec<u8>) {
        let signed = statement(role, &self.session.exporter, &self.session.own_certificate);
        let payload = seal_signed(&config.keypair, &signed, &hello(config, version));
        put_record(out, config.magic, RecordKind::Handshake, |out| out.extend_from_slice(&payload));
    }
}

/// For the responder the connection stands already.
const fn close(reason: CloseReason) -> Failure {
    Failure { closed: Closed::by_us(reason), answer: Answer::Close(LastWord::Plain) }
}

/// What the side with this role signs.
fn statement(role: Role, exporter: &[u8; 32], certificate: &[u8; 32]) -> Vec<u8> {
    let mut input = signing_input(DOMAIN);
    input.push(role_byte(role));
    input.extend_from_slice(exporter);
    input.extend_from_slice(certificate);
    input
}
