//! Ed25519 keys: who a node is, and what it signs.

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use peerage_core::NodeId;
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

/// Length in bytes of an Ed25519 signature (RFC 8032, 5.1.6).
pub const SIGNATURE_LEN: usize = 64;

/// Length in bytes of an Ed25519 secret seed (RFC 8032, 5.1.5).
pub const SEED_LEN: usize = 32;

/// An Ed25519 key pair (RFC 8032). Its secret is wiped when it is dropped and never printed.
///
/// There is no `Clone`: share one in an `Arc`, so that the secret lies in memory once.
pub struct Keypair(SigningKey);

impl Keypair {
    /// A new key pair, from 32 bytes of `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::from_seed(&seed)
    }

    /// The key pair of a secret seed (RFC 8032, 5.1.5). The caller wipes its own copy.
    pub fn from_seed(seed: &[u8; SEED_LEN]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The secret seed, for the key file alone.
    pub(crate) fn seed(&self) -> &[u8; SEED_LEN] {
        self.0.as_bytes()
    }

    /// The public key, which is the identity of whoever holds this pair.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` as it is. Whatever is signed starts with a domain of its own, so that no signature can be
    /// passed off as one made for another purpose: [`Signed`](super::signed::Signed) sees to that.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keypair").field(&self.node_id()).finish()
    }
}

/// The signature was not made by this key over this message, or the key is none. The fault of whoever presented it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("invalid signature")]
pub struct InvalidSignature;

/// Checks that `signer` signed `message`; the only check of signatures in the stack.
///
/// It is the strict one: RFC 8032's equation without the cofactor, points of small order refused. The lax one accepts
/// keys of small order, under which one signature fits many messages, and implementations differ on which signatures
/// they take. Nodes that must all come to the same verdict on a record or a block can afford neither.
///
/// # Errors
/// [`InvalidSignature`], the fault of whoever presented the signature.
pub fn verify_strict(signer: NodeId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Result<(), InvalidSignature> {
    let key = VerifyingKey::from_bytes(signer.as_bytes()).map_err(|_| InvalidSignature)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| InvalidSignature)
}

/// The beginning of everything that is signed: the domain's length in one byte, then the domain. Thanks to the length
/// no domain is the beginning of another one.
pub(super) fn signing_input(domain: &'static str) -> Vec<u8> {
    let len = u8::try_from(domain.len()).expect("a domain is a constant of 255 bytes at most");
    let mut input = vec![len];
    input.extend_from_slice(domain.as_bytes());
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_signer_and_message_only() {
        let (alice, bob) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let signature = alice.sign(b"message");
        assert_eq!(verify_strict(alice.node_id(), b"message", &signature), Ok(()));
        assert_eq!(verify_strict(bob.node_id(), b"message", &signature), Err(InvalidSignature));
        assert_eq!(verify_strict(alice.node_id(), b"Message", &signature), Err(InvalidSignature));
        for at in 0..SIGNATURE_LEN {
            let mut forged = signature;
            forged[at] ^= 1;
            assert_eq!(verify_strict(alice.node_id(), b"message", &forged), Err(InvalidSignature), "byte {at}");
        }
    }

    /// With the identity point as key and as R, and S = 0, the lax equation holds for every message.
    #[test]
    fn a_key_of_small_order_signs_nothing() {
        let identity = core::array::from_fn(|i| u8::from(i == 0));
        let mut signature = [0; SIGNATURE_LEN];
        signature[0] = 1;
        let lax = VerifyingKey::from_bytes(&identity).expect("a point of the curve");
        let lax = ed25519_dalek::Verifier::verify(&lax, b"any message", &Signature::from_bytes(&signature));
        assert!(lax.is_ok(), "the lax check falls for it");
        assert_eq!(verify_strict(NodeId::from_bytes(identity), b"any message", &signature), Err(InvalidSignature));
    }

    /// Who holds a key can sign with the identity point for R, the nonce zero, and S = kA's secret: the equation holds, and
    /// the message is not bound to anything that changes. Computed for the key of seed 01..01 and `message`.
    #[test]
    fn a_signature_with_an_r_of_small_order_is_refused_although_the_equation_holds() {
        let mut signature = [0; SIGNATURE_LEN];
        signature[0] = 1;
        signature[32..].copy_from_slice(&[
            0x95, 0xc0, 0xfd, 0xcc, 0x54, 0xfc, 0xca, 0xd1, 0xf2, 0xb8, 0xbc, 0x9b, 0x96, 0xaa, 0x68, 0x37, 0xc8, 0x2f,
            0x86, 0x34, 0x9e, 0x65, 0x76, 0xad, 0x29, 0xca, 0x3e, 0xce, 0x7b, 0x7e, 0xa9, 0x05,
        ]);
        let signer = Keypair::from_seed(&[1; 32]).node_id();
        let key = VerifyingKey::from_bytes(signer.as_bytes()).expect("a key");
        let lax = ed25519_dalek::Verifier::verify(&key, b"message", &Signature::from_bytes(&signature));
        assert!(lax.is_ok(), "the lax check takes it");
        assert_eq!(verify_strict(signer, b"message", &signature), Err(InvalidSignature));
    }

    #[test]
    fn an_s_that_is_not_reduced_is_refused_so_that_a_signature_has_one_form() {
        /// The order of the group, little-endian (RFC 8032, 5.1).
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let alice = Keypair::from_seed(&[1; 32]);
        let mut signature = alice.sign(b"message");
        assert_eq!(verify_strict(alice.node_id(), b"message", &signature), Ok(()));
        let mut carry = 0;
        for (byte, add) in signature[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_eq!(carry, 0, "S + L has 32 bytes too");
        assert_eq!(verify_strict(alice.node_id(), b"message", &signature), Err(InvalidSignature));
    }

    #[test]
    fn bytes_that_are_no_point_of_the_curve_are_no_signer() {
        let no_point = NodeId::from_bytes(core::array::from_fn(|i| if i == 0 { 2 } else { 0 }));
        assert!(VerifyingKey::from_bytes(no_point.as_bytes()).is_err());
        assert_eq!(verify_strict(no_point, b"", &[0; SIGNATURE_LEN]), Err(InvalidSignature));
    }

    #[test]
    fn the_secret_is_never_printed() {
        let pair = Keypair::from_seed(&[1; 32]);
        assert_eq!(format!("{pair:?}"), format!("Keypair({:?})", pair.node_id()));
    }

    #[test]
    fn no_domain_begins_another() {
        assert_eq!(signing_input("ab"), b"\x02ab");
        assert!(!signing_input("abc").starts_with(&signing_input("ab")));
    }
}
