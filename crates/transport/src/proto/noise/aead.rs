//! ChaCha20-Poly1305 (RFC 8439), from one of two libraries behind one small seam: the crate `chacha20poly1305`, pure Rust,
//! and `ring` (feature `ring`), assembly, at about half the cost a byte. They give the same bytes.

/// Length in bytes of a key (RFC 8439, 2.8).
pub(super) const KEY_LEN: usize = 32;

/// Length in bytes of the authentication tag (RFC 8439, 2.8).
pub const TAG_LEN: usize = 16;

/// Length in bytes of a nonce (RFC 8439, 2.8).
pub(super) const NONCE_LEN: usize = 12;

/// The tag does not fit: the text, the associated data, the nonce or the key is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forged;

/// Why neither library refuses to seal: what it is given is measured before.
const SHORT: &str = "the AEAD refuses only texts of 256 GiB, and a Noise message has 64 KiB at most";

/// The cipher of this build.
#[cfg(not(feature = "ring"))]
pub(super) use portable::Cipher;
#[cfg(feature = "ring")]
pub(super) use with_ring::Cipher;

#[cfg(any(test, not(feature = "ring")))]
pub(super) mod portable {
    use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};

    use super::{Forged, KEY_LEN, NONCE_LEN, SHORT, TAG_LEN};

    /// A key, wiped when dropped.
    pub(in super::super) struct Cipher(ChaCha20Poly1305);

    impl Cipher {
        pub(in super::super) fn new(key: &[u8; KEY_LEN]) -> Self {
            Self(ChaCha20Poly1305::new(key.into()))
        }

        /// Encrypts in place; the tag.
        pub(in super::super) fn seal(&self, nonce: [u8; NONCE_LEN], ad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
            self.0.encrypt_inout_detached(&nonce.into(), ad, text.into()).expect(SHORT).into()
        }

        /// Decrypts what is followed by its tag, in place; the text.
        pub(in super::super) fn open<'m>(
            &self,
            nonce: [u8; NONCE_LEN],
            ad: &[u8],
            message: &'m mut [u8],
        ) -> Result<&'m mut [u8], Forged> {
            let (text, tag) = message.split_last_chunk_mut::<TAG_LEN>().ok_or(Forged)?;
            let tag = (*tag).into();
            self.0.decrypt_inout_detached(&nonce.into(), ad, (&mut *text).into(), &tag).map_err(|_| Forged)?;
            Ok(text)
        }
    }
}

#[cfg(feature = "ring")]
pub(super) mod with_ring {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{Forged, KEY_LEN, NONCE_LEN, SHORT, TAG_LEN};

    /// A key, in a box for its half kilobyte. The library does not wipe it: memory that was freed may keep it until it is
    /// used again.
    pub(in super::super) struct Cipher(Box<LessSafeKey>);

    impl Cipher {
        pub(in super::super) fn new(key: &[u8; KEY_LEN]) -> Self {
            let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of 32 bytes is one");
            Self(Box::new(LessSafeKey::new(key)))
        }

        /// Encrypts in place; the tag.
        pub(in super::super) fn seal(&self, nonce: [u8; NONCE_LEN], ad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(ad), text).expect(SHORT);
            tag.as_ref().try_into().expect("a tag has 16 bytes")
        }

        /// Decrypts what is followed by its tag, in place; the text.
        pub(in super::super) fn open<'m>(
            &self,
            nonce: [u8; NONCE_LEN],
            ad: &[u8],
            message: &'m mut [u8],
        ) -> Result<&'m mut [u8], Forged> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.open_in_place(nonce, Aad::from(ad), message).map_err(|_| Forged)
        }
    }
}

#[cfg(all(test, feature = "ring"))]
mod tests {
    use super::{portable, with_ring};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_libraries_give_the_same_bytes_and_refuse_the_same(
            key: [u8; 32],
            nonce: [u8; 12],
            ad in proptest::collection::vec(any::<u8>(), 0..80),
            text in proptest::collection::vec(any::<u8>(), 0..2000),
            at: proptest::sample::Index,
        ) {
            let (ours, theirs) = (portable::Cipher::new(&key), with_ring::Cipher::new(&key));
            let (mut one, mut other) = (text.clone(), text.clone());
            let tag = ours.seal(nonce, &ad, &mut one);
            prop_assert_eq!(tag, theirs.seal(nonce, &ad, &mut other));
            prop_assert_eq!(&one, &other);
            let whole = [&*one, &tag].concat();
            let (mut one, mut other) = (whole.clone(), whole.clone());
            prop_assert_eq!(&*theirs.open(nonce, &ad, &mut one).expect("its own"), &*text);
            prop_assert_eq!(&*ours.open(nonce, &ad, &mut other).expect("its own"), &*text);
            let mut changed = whole;
            let at = at.index(changed.len());
            changed[at] ^= 1;
            prop_assert!(ours.open(nonce, &ad, &mut changed.clone()).is_err());
            prop_assert!(theirs.open(nonce, &ad, &mut changed).is_err());
        }
    }
}
