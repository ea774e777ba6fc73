//! Signatures of the chain: what exactly is signed.

use peerage_core::NodeId;
use peerage_transport::proto::keypair::{Keypair, verify_strict};

use super::id::Signature;

/// The signed bytes: the domain with its length in one byte before it, then the parts. Sizes of all parts but
/// the last are fixed by the domain.
fn message(domain: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + domain.len() + parts.iter().map(|part| part.len()).sum::<usize>());
    message.push(u8::try_from(domain.len()).expect("domains are constants below 256 bytes"));
    message.extend_from_slice(domain.as_bytes());
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message
}

pub(crate) fn sign(keypair: &Keypair, domain: &str, parts: &[&[u8]]) -> Signature {
    Signature::from_bytes(keypair.sign(&message(domain, parts)))
}

/// Strict verification (no small-order keys, canonical s): every node must give the same answer on every input, which
/// RFC 8032 alone does not promise.
pub(crate) fn verify(public: &[u8; 32], domain: &str, parts: &[&[u8]], signature: &Signature) -> bool {
    verify_strict(NodeId::from_bytes(*public), &message(domain, parts), &signature.to_bytes()).is_ok()
}
