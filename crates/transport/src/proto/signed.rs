//! Values with their author's signature, void for every other purpose, network and version.

use bytes::Bytes;
use peerage_core::{NetworkId, NodeId};
use peerage_wire::payload::{self, PayloadError};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::keypair::{InvalidSignature, Keypair, SIGNATURE_LEN, signing_input, verify_strict};

/// A type whose values are signed.
pub trait Signable: Serialize + DeserializeOwned {
    /// What the signature is for, e.g. `"peerage-node-record"`: ASCII, at most 255 bytes, and no other type's.
    const DOMAIN: &'static str;

    /// The version of the encoding. A signature under one version is void under every other.
    const VERSION: u16;
}

/// What stands before the body: signer (32 bytes), signature (64), version (2, big-endian).
pub const SIGNED_OVERHEAD: usize = 32 + SIGNATURE_LEN + 2;

/// A value, who signed it, and the exact bytes that were signed.
///
/// Having one means that the signature holds: it comes from [`sign`](Self::sign) or
/// [`decode_and_verify`](Self::decode_and_verify). Encoded it is signer, signature, version, body; signed is
/// `domain length u8 | domain | network id, 32 bytes | version u16 | body`, over the body as received: it is never
/// encoded anew, and whoever passes a value on sends [`encoded`](Self::encoded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    signer: NodeId,
    encoded: Bytes,
}

/// Bytes that are no `Signed<T>`. All but [`UnknownVersion`](Self::UnknownVersion) are the fault of the peer that sent
/// them, author or not: it should have checked them before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignedError {
    /// More bytes than the caller allows.
    #[error("signed value is longer than its limit")]
    TooLong,
    /// Fewer than [`SIGNED_OVERHEAD`] bytes.
    #[error("signed value ends before its body")]
    TooShort,
    /// A version we do not speak, perhaps of a newer release. The signature was not checked.
    #[error("unknown version {0} of a signed value")]
    UnknownVersion(u16),
    /// The body is not the canonical encoding of the type. The signature was not checked, since that costs more.
    #[error("signed body: {0}")]
    Malformed(#[from] PayloadError),
    /// Not signed by the signer it names, or for another purpose, network or version.
    #[error(transparent)]
    Signature(#[from] InvalidSignature),
}

impl<T: Signable> Signed<T> {
    /// The domain fits its length byte: checked when `T` is compiled.
    const DOMAIN_FITS: () = assert!(T::DOMAIN.len() <= u8::MAX as usize, "a domain has 255 bytes at most");

    /// Signs `value` for `network`.
    pub fn sign(keypair: &Keypair, network: NetworkId, value: T) -> Self {
        let body = payload::to_bytes(&value);
        let signature = keypair.sign(&Self::signed_bytes(network, &body));
        let signer = keypair.node_id();
        let version = T::VERSION.to_be_bytes();
        let encoded = [signer.as_bytes().as_slice(), &signature, &version, &body].concat().into();
        Self { value, signer, encoded }
    }

    /// Reads a signed value off the wire: at most `max_len` bytes, the overhead included.
    ///
    /// # Errors
    /// [`SignedError`], the sender's fault unless it is [`SignedError::UnknownVersion`].
    pub fn decode_and_verify(encoded: Bytes, network: NetworkId, max_len: usize) -> Result<Self, SignedError> {
        if encoded.len() > max_len {
            return Err(SignedError::TooLong);
        }
        let (signer, rest) = encoded.split_first_chunk().ok_or(SignedError::TooShort)?;
        let (signature, rest) = rest.split_first_chunk().ok_or(SignedError::TooShort)?;
        let (version, body) = rest.split_first_chunk().ok_or(SignedError::TooShort)?;
        let version = u16::from_be_bytes(*version);
        if version != T::VERSION {
            return Err(SignedError::UnknownVersion(version));
        }
        let value = payload::from_bytes(body, max_len)?;
        let signer = NodeId::from_bytes(*signer);
        verify_strict(signer, &Self::signed_bytes(network, body), signature)?;
        Ok(Self { value, signer, encoded })
    }

    fn signed_bytes(network: NetworkId, body: &[u8]) -> Vec<u8> {
        let () = Self::DOMAIN_FITS;
        let mut input = signing_input(T::DOMAIN);
        input.extend_from_slice(network.as_bytes());
        input.extend_from_slice(&T::VERSION.to_be_bytes());
        input.extend_from_slice(body);
        input
    }
}

impl<T> Signed<T> {
    /// The value.
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// Takes the value out.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Whose signature it is.
    pub const fn signer(&self) -> NodeId {
        self.signer
    }

    /// The bytes to send, those received if it was received.
    pub const fn encoded(&self) -> &Bytes {
        &self.encoded
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const LIMIT: usize = 200;
    const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

    macro_rules! signable {
        ($name:ident, $domain:literal, $version:literal) => {
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            struct $name(u64);

            impl Signable for $name {
                const DOMAIN: &'static str = $domain;
                const VERSION: u16 = $version;
            }
        };
    }

    signable!(Vote, "vote", 1);
    signable!(VoteV2, "vote", 2);
    signable!(Veto, "veto", 1);

    fn keypair() -> Keypair {
        Keypair::from_seed(&[1; 32])
    }

    fn vote() -> Bytes {
        Signed::sign(&keypair(), NETWORK, Vote(300)).encoded().clone()
    }

    fn decode<T: Signable>(encoded: &[u8]) -> Result<Signed<T>, SignedError> {
        Signed::decode_and_verify(Bytes::copy_from_slice(encoded), NETWORK, LIMIT)
    }

    /// `vote()` with another version and body, honestly signed as what it then is.
    fn signed_as(version: u16, body: &[u8]) -> Vec<u8> {
        let parts = [b"\x04vote".as_slice(), NETWORK.as_bytes(), &version.to_be_bytes(), body];
        let signature = keypair().sign(&parts.concat());
        [keypair().node_id().as_bytes(), signature.as_slice(), &version.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_signed_value_comes_back_with_its_signer_and_its_bytes() {
        let signed = decode::<Vote>(&vote()).unwrap();
        assert_eq!((signed.value(), signed.signer()), (&Vote(300), keypair().node_id()));
        assert_eq!(signed.encoded(), &vote());
        let (arrived, network) = (vote(), NETWORK);
        let kept = Signed::<Vote>::decode_and_verify(arrived.clone(), network, LIMIT).unwrap().encoded().clone();
        assert_eq!(kept.as_ptr(), arrived.as_ptr(), "what is passed on are the bytes that came, not a new encoding");
        assert_eq!(vote().len(), SIGNED_OVERHEAD + 2);
        assert_eq!(vote(), signed_as(1, &[0xac, 0x02]), "the layout that the documentation gives");
    }

    #[test]
    fn a_signature_is_void_for_another_purpose_network_or_version() {
        let refused = SignedError::Signature(InvalidSignature);
        assert_eq!(decode::<Veto>(&vote()), Err(refused));
        let elsewhere = NetworkId::from_bytes([2; 32]);
        assert_eq!(Signed::<Vote>::decode_and_verify(vote(), elsewhere, LIMIT), Err(refused));
        assert_eq!(decode::<VoteV2>(&vote()), Err(SignedError::UnknownVersion(1)));
        let mut relabelled = vote().to_vec();
        relabelled[SIGNED_OVERHEAD - 1] = 2;
        assert_eq!(decode::<VoteV2>(&relabelled), Err(refused));
    }

    #[test]
    fn each_byte_of_a_signed_value_is_protected() {
        for at in 0..vote().len() {
            let mut forged = vote().to_vec();
            forged[at] ^= 1;
            let error = decode::<Vote>(&forged).unwrap_err();
            match at {
                0..96 => assert_eq!(error, SignedError::Signature(InvalidSignature), "byte {at}"),
                96..98 => assert!(matches!(error, SignedError::UnknownVersion(_)), "byte {at}"),
                _ => assert!(matches!(error, SignedError::Signature(_) | SignedError::Malformed(_)), "byte {at}"),
            }
        }
    }

    #[test]
    fn a_signature_does_not_make_a_body_well_formed() {
        for body in [[].as_slice(), &[0x80, 0x00], &[1, 1]] {
            assert!(matches!(decode::<Vote>(&signed_as(1, body)), Err(SignedError::Malformed(_))), "{body:?}");
        }
    }

    #[test]
    fn lengths_are_checked_first() {
        for len in 0..SIGNED_OVERHEAD {
            assert_eq!(decode::<Vote>(&vote()[..len]), Err(SignedError::TooShort), "{len} bytes");
        }
        assert_eq!(decode::<Vote>(&[0; LIMIT + 1]), Err(SignedError::TooLong));
        let exact = vote().len();
        assert!(Signed::<Vote>::decode_and_verify(vote(), NETWORK, exact).is_ok());
        assert_eq!(Signed::<Vote>::decode_and_verify(vote(), NETWORK, exact - 1), Err(SignedError::TooLong));
    }
}
