//! Project Wycheproof's vectors for the primitives, as this crate calls them: what other implementations got wrong.

use core::convert::Infallible;

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use peerage_core::NodeId;
use rand_core::{TryCryptoRng, TryRng};
use wycheproof::{TestResult, aead, eddsa, hkdf, mac, xdh};
use zeroize::Zeroizing;

use super::super::{
    DhKeypair, NoiseError,
    aead::{self as cipher, TAG_LEN},
    symmetric_state::{self, HASHLEN},
};
use crate::proto::keypair::verify_strict;

/// Gives the bytes of a vector's secret where a key pair is drawn.
struct Secret([u8; 32]);

impl TryRng for Secret {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("a key is drawn as bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("a key is drawn as bytes")
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Secret {}

#[test]
fn x25519_gives_the_shared_secrets_and_refuses_those_that_everybody_knows() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).expect("the vectors");
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let keys = DhKeypair::generate(&mut Secret(test.private_key[..].try_into().expect("32 bytes")));
        // Keys of other lengths do not come so far: a Noise message has 32 bytes for one.
        let Ok(public) = <&[u8; 32]>::try_from(&test.public_key[..]) else { continue };
        let shared = keys.dh(public).map(|shared| shared.to_vec());
        if test.shared_secret.iter().all(|byte| *byte == 0) {
            // `acceptable` there; not here.
            assert_eq!(shared, Err(NoiseError::NonContributory), "{}: {}", test.tc_id, test.comment);
            refused += 1;
        } else {
            assert_ne!(test.result, TestResult::Invalid);
            assert_eq!(shared.as_deref(), Ok(&test.shared_secret[..]), "{}: {}", test.tc_id, test.comment);
            agreed += 1;
        }
    }
    assert_eq!((agreed, refused), (487, 31));
}

/// The vectors through one of the two libraries: how many were opened, how many refused.
macro_rules! chacha {
    ($cipher:ty) => {{
        let set = aead::TestSet::load(aead::TestName::ChaCha20Poly1305).expect("the vectors");
        let (mut opened, mut refused) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let what = format!("{}: {}", test.tc_id, test.comment);
            // Nonces and tags of other lengths cannot be expressed here.
            let (Ok(nonce), TAG_LEN) = (<[u8; 12]>::try_from(&test.nonce[..]), test.tag.len()) else { continue };
            let key = <$cipher>::new(test.key[..].try_into().expect("32 bytes"));
            let mut sealed = [&test.ct[..], &test.tag].concat();
            let text = key.open(nonce, &test.aad, &mut sealed).map(|text| text.to_vec());
            if test.result == TestResult::Invalid {
                assert!(text.is_err(), "{what}");
                refused += 1;
                continue;
            }
            assert_eq!(text.as_deref(), Ok(&test.pt[..]), "{what}");
            let mut text = test.pt.to_vec();
            let tag = key.seal(nonce, &test.aad, &mut text);
            assert_eq!((&text[..], &tag[..]), (&test.ct[..], &test.tag[..]), "{what}");
            opened += 1;
        }
        (opened, refused)
    }};
}

#[test]
fn both_ciphers_open_and_seal_what_they_should_and_refuse_what_was_changed() {
    assert_eq!(chacha!(cipher::portable::Cipher), (256, 60));
    #[cfg(feature = "ring")]
    assert_eq!(chacha!(cipher::with_ring::Cipher), (256, 60));
}

/// The strict check comes to the verdict of the vectors everywhere, and so does the lax one: none of them is of the kinds that only
/// the strict one refuses, which have tests of their own in `keypair.rs`.
#[test]
fn signatures_are_accepted_or_refused_as_they_should_be() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("the vectors");
    let (mut accepted, mut refused, mut other_lengths) = (0, 0, 0);
    for group in &set.test_groups {
        let signer = NodeId::from_bytes(group.key.pk[..].try_into().expect("32 bytes"));
        for test in &group.tests {
            let Ok(signature) = <&[u8; 64]>::try_from(&test.sig[..]) else {
                assert_eq!(test.result, TestResult::Invalid);
                other_lengths += 1;
                continue;
            };
            let holds = verify_strict(signer, &test.msg, signature).is_ok();
            assert_eq!(holds, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            let lax = VerifyingKey::from_bytes(signer.as_bytes())
                .and_then(|key| key.verify(&test.msg, &Signature::from_bytes(signature)));
            assert_eq!(lax.is_ok(), holds, "{}: {}", test.tc_id, test.comment);
            if holds { accepted += 1 } else { refused += 1 }
        }
    }
    assert_eq!((accepted, refused, other_lengths), (88, 51, 12));
}

/// HMAC fills a key up to its block with zeros, so that a shorter one is one of 32 bytes too (RFC 2104, 2).
fn padded(key: &[u8]) -> Option<Zeroizing<[u8; HASHLEN]>> {
    let mut padded = Zeroizing::new([0; HASHLEN]);
    padded.get_mut(..key.len())?.copy_from_slice(key);
    Some(padded)
}

#[test]
fn hmac_gives_the_tags_whatever_parts_the_data_comes_in() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).expect("the vectors");
    let (mut same, mut other) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Some(key) = padded(&test.key) else { continue };
        let (first, rest) = test.msg.split_at(test.msg.len() / 3);
        let tag = symmetric_state::hmac_hash(&key, &[first, rest]);
        let holds = tag.starts_with(&test.tag);
        assert_eq!(holds, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
        if holds { same += 1 } else { other += 1 }
    }
    assert_eq!((same, other), (60, 108));
}

/// Noise takes two outputs without info; the vectors that ask for no more than that.
#[test]
fn hkdf_gives_the_keys() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).expect("the vectors");
    let mut same = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (Some(salt), true, 1..=64) = (padded(&test.salt), test.info.is_empty(), test.size) else { continue };
        let (one, two) = symmetric_state::hkdf(&salt, &test.ikm);
        assert_eq!([*one, *two].as_flattened()[..test.size], test.okm[..], "{}: {}", test.tc_id, test.comment);
        same += 1;
    }
    assert_eq!(same, 28);
}
