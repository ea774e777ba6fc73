//! The test vectors, each computed by the code that a node runs.

mod chain;
mod discovery;
mod gossip;
mod transport;
mod wire;

use peerage_core::Message;
use sha2::{Digest, Sha256};

use crate::document::Vector;

/// SHA-256 as the documents write it: over a domain behind its length, then the parts.
fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut sha = Sha256::new().chain_update([domain.len() as u8]).chain_update(domain);
    parts.iter().for_each(|part| sha.update(part));
    sha.finalize().into()
}

/// What a signature is made over, as the documents write it.
fn signed(domain: &str, parts: &[&[u8]]) -> Vec<u8> {
    [&[domain.len() as u8], domain.as_bytes(), &parts.concat()].concat()
}

/// Head and body of a message.
fn message(vector: Vector, name: &str, message: &Message) -> Vector {
    let vector = vector.hex(&format!("{name} head"), &message.head);
    match &message.body {
        Some(body) => vector.hex(&format!("{name} body"), body),
        None => vector.text(&format!("{name} body"), "(none)"),
    }
}
