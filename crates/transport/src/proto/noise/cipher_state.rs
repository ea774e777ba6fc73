//! `CipherState`, spec 5.1, with ChaChaPoly (spec 12.3).

use core::fmt;

use zeroize::Zeroizing;

use super::{
    NoiseError,
    aead::{Cipher, KEY_LEN, NONCE_LEN, TAG_LEN},
};

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
    /// `k`.
    cipher: Cipher,
    /// `n`, the number of messages so far, which `rekey` does not reset.
    n: u64,
}

impl CipherState {
    /// `InitializeKey(key)`.
    pub(in crate::proto) fn initialize_key(key: &[u8; KEY_LEN]) -> Self {
        Self { cipher: Cipher::new(key), n: 0 }
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
        let tag = self.cipher.seal(nonce, ad, text);
        self.n += 1;
        Ok(tag)
    }

    /// `DecryptWithAd(ad, ciphertext)`, in place: `message` is ciphertext and tag, the slice returned is its
    /// plaintext, [`TAG_LEN`] bytes shorter.
    ///
    /// # Errors
    /// [`NoiseError::TooLong`], [`NoiseError::TooShort`] or [`NoiseError::Authentication`], all the sender's fault:
    /// the counter stays (spec 5.1) and nothing unauthenticated can be read: the text is as it was, or wiped.
    /// [`NoiseError::NonceExhausted`] after [`MAX_NONCE`] messages.
    pub fn decrypt_with_ad<'m>(&mut self, ad: &[u8], message: &'m mut [u8]) -> Result<&'m mut [u8], NoiseError> {
        if message.len() > super::MAX_MESSAGE_LEN {
            return Err(NoiseError::TooLong);
        }
        if message.len() < TAG_LEN {
            return Err(NoiseError::TooShort);
        }
        let nonce = self.message_nonce()?;
        let text = self.cipher.open(nonce, ad, message).map_err(|_| NoiseError::Authentication)?;
        self.n += 1;
        Ok(text)
    }

    /// `Rekey()`: replaces the key by `REKEY(k)` (spec 4.2), the first 32 bytes of an encryption of zeros under the
    /// reserved nonce, so that who steals the new key cannot read what went before. Both sides call it at the same
    /// count (spec 11.3); the counter runs on.
    pub fn rekey(&mut self) {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        self.cipher.seal(nonce_bytes(REKEY_NONCE), &[], key.as_mut_slice());
        self.cipher = Cipher::new(&key);
    }

    /// The nonce of the next message, or the hard stop.
    const fn message_nonce(&self) -> Result<[u8; NONCE_LEN], NoiseError> {
        if self.n >= MAX_NONCE {
            return Err(NoiseError::NonceExhausted);
        }
        Ok(nonce_bytes(self.n))
    }

    /// `SetNonce(nonce)`, for tests only: a stream carries every message once and in order.
    #[cfg(test)]
    pub(crate) const fn set_nonce(&mut self, nonce: u64) {
        self.n = nonce;
    }
}

/// 32 zero bits, then the counter in little-endian (spec 12.3).
const fn nonce_bytes(n: u64) -> [u8; NONCE_LEN] {
    let [a, b, c, d, e, f, g, h] = n.to_le_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

impl fmt::Debug for CipherState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CipherState").field("n", &self.n).finish_non_exhaustive()
    }
}
