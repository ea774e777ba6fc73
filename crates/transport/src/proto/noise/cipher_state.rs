//! `CipherState`, spec 5.1, with ChaChaPoly (spec 12.3).

use core::fmt;

use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use zeroize::Zeroizing;

use super::NoiseError;

/// Length in bytes of a cipher key (spec 4.2).
pub(super) const KEY_LEN: usize = 32;

/// Length in bytes of the authentication tag (spec 4.2).
pub const TAG_LEN: usize = 16;

/// How many messages one direction may carry before its connection must be opened anew. Spec 5.1 stops only at
/// 2^64-1; 2^60 is our choice, out of reach in practice and far from the nonce that [`CipherState::rekey`] reserves.
pub const MAX_NONCE: u64 = 1 << 60;

/// The nonce of `REKEY` (spec 4.2), never used for a message.
const REKEY_NONCE: u64 = u64::MAX;

/// A key and the counter of its messages: one direction of a connection.
///
/// Spec 5.1 lets the key be empty, in which case text passes through unencrypted. Here a `CipherState` always has its
/// key, and the empty one is the `None` of the handshake's symmetric state: what [`split`](super::HandshakeState::split)
/// hands out cannot send plaintext.
pub struct CipherState {
    /// `k`; the type wipes it when dropped.
    cipher: ChaCha20Poly1305,
    /// `n`, the number of messages so far, which `rekey` does not reset.
    n: u64,
}

impl CipherState {
    /// `InitializeKey(key)`.
    pub(super) fn initialize_key(key: &[u8; KEY_LEN]) -> Self {
        Self { cipher: ChaCha20Poly1305::new(key.into()), n: 0 }
    }

    /// `n`: the number of messages this direction has carried.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.n
    }

    /// `EncryptWithAd(ad, plaintext)`, in place: `text` becomes ciphertext of the same length, and the tag, which
    /// the receiver expects right behind it, is returned.
    ///
    /// # Errors
    /// [`NoiseError::PayloadTooLong`] if text and tag exceed [`MAX_MESSAGE_LEN`](super::MAX_MESSAGE_LEN),
    /// [`NoiseError::NonceExhausted`] after [`MAX_NONCE`] messages; `text` is untouched then.
    pub fn encrypt_with_ad(&mut self, ad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], NoiseError> {
        if text.len() > super::MAX_MESSAGE_LEN - TAG_LEN {
            return Err(NoiseError::PayloadTooLong);
        }
        let nonce = self.message_nonce()?;
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), ad, text.into())
            .expect("the AEAD refuses only texts of 256 GiB, and this one was measured above");
        self.n += 1;
        Ok(tag.into())
    }

    /// `DecryptWithAd(ad, ciphertext)`, in place: `message` is ciphertext and tag, the slice returned is its
    /// plaintext, [`TAG_LEN`] bytes shorter.
    ///
    /// # Errors
    /// [`NoiseError::TooLong`], [`NoiseError::TooShort`] or [`NoiseError::Authentication`], all the sender's fault:
    /// the counter stays (spec 5.1) and nothing was decrypted. [`NoiseError::NonceExhausted`] after [`MAX_NONCE`]
    /// messages.
    pub fn decrypt_with_ad<'m>(&mut self, ad: &[u8], message: &'m mut [u8]) -> Result<&'m mut [u8], NoiseError> {
        if message.len() > super::MAX_MESSAGE_LEN {
            return Err(NoiseError::TooLong);
        }
        let (text, tag) = message.split_last_chunk_mut::<TAG_LEN>().ok_or(NoiseError::TooShort)?;
        let nonce = self.message_nonce()?;
        self.cipher
            .decrypt_inout_detached(&nonce.into(), ad, (&mut *text).into(), &(*tag).into())
            .map_err(|_| NoiseError::Authentication)?;
        self.n += 1;
        Ok(text)
    }

    /// `Rekey()`: replaces the key by `REKEY(k)` (spec 4.2), the first 32 bytes of an encryption of zeros under the
    /// reserved nonce, so that who steals the new key cannot read what went before. Both sides call it at the same
    /// count (spec 11.3); the counter runs on.
    pub fn rekey(&mut self) {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        self.cipher
            .encrypt_inout_detached(&nonce_bytes(REKEY_NONCE).into(), &[], key.as_mut_slice().into())
            .expect("the AEAD refuses only texts of 256 GiB, and a key has 32 bytes");
        self.cipher = ChaCha20Poly1305::new((&*key).into());
    }

    /// The nonce of the next message, or the hard stop.
    const fn message_nonce(&self) -> Result<[u8; 12], NoiseError> {
        if self.n >= MAX_NONCE {
            return Err(NoiseError::NonceExhausted);
        }
        Ok(nonce_bytes(self.n))
    }

    /// `SetNonce(nonce)`, for tests only: a stream carries every message once and in order.
    #[cfg(test)]
    pub(super) const fn set_nonce(&mut self, nonce: u64) {
        self.n = nonce;
    }
}

/// 32 zero bits, then the counter in little-endian (spec 12.3).
const fn nonce_bytes(n: u64) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = n.to_le_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

impl fmt::Debug for CipherState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CipherState").field("n", &self.n).finish_non_exhaustive()
    }
}
