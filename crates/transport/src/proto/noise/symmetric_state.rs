//! `SymmetricState`, spec 5.2, with SHA256 (spec 12.5) and the HKDF of spec 4.3.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{DHLEN, NoiseError};
use super::{aead::KEY_LEN, cipher_state::CipherState};

/// Length in bytes of a SHA-256 output, hence of the handshake hash (spec 12.5).
pub const HASHLEN: usize = 32;

/// A value that is wiped when dropped: chaining keys, cipher keys, shared secrets.
type Secret = Zeroizing<[u8; HASHLEN]>;

/// The running hash `h` over everything said, the chaining key `ck` over every shared secret, and the cipher they
/// yield once there is a first secret.
pub(super) struct SymmetricState {
    /// `None` until the first `MixKey`: the empty key of spec 5.1.
    cipher: Option<CipherState>,
    ck: Secret,
    h: [u8; HASHLEN],
}

impl SymmetricState {
    /// `InitializeSymmetric(protocol_name)`. A name of exactly HASHLEN bytes, as ours are, is `h` verbatim.
    pub(super) fn initialize_symmetric(protocol_name: &[u8; HASHLEN]) -> Self {
        Self { cipher: None, ck: Zeroizing::new(*protocol_name), h: *protocol_name }
    }

    /// `MixKey(input_key_material)`.
    pub(super) fn mix_key(&mut self, input_key_material: &[u8; DHLEN]) {
        let (ck, temp_k) = hkdf(&self.ck, input_key_material);
        self.ck = ck;
        self.cipher = Some(CipherState::initialize_key(&temp_k));
    }

    /// `MixHash(data)`.
    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.h = Sha256::new().chain_update(self.h).chain_update(data).finalize().into();
    }

    /// `GetHandshakeHash()`. The specification calls it at the end; between messages it is the transcript so far.
    pub(super) const fn handshake_hash(&self) -> &[u8; HASHLEN] {
        &self.h
    }

    /// `HasKey()` of the cipher: whether what comes next is encrypted.
    pub(super) const fn has_key(&self) -> bool {
        self.cipher.is_some()
    }

    /// `EncryptAndHash(plaintext)`, appended to `out`.
    pub(super) fn encrypt_and_hash(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let start = out.len();
        out.extend_from_slice(plaintext);
        if let Some(cipher) = &mut self.cipher {
            let tag = cipher.encrypt_with_ad(&self.h, &mut out[start..])?;
            out.extend_from_slice(&tag);
        }
        self.mix_hash(&out[start..]);
        Ok(())
    }

    /// `DecryptAndHash(ciphertext)`.
    pub(super) fn decrypt_and_hash(&mut self, ciphertext: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let mut text = ciphertext.to_vec();
        if let Some(cipher) = &mut self.cipher {
            let plain_len = cipher.decrypt_with_ad(&self.h, &mut text)?.len();
            text.truncate(plain_len);
        }
        self.mix_hash(ciphertext);
        Ok(text)
    }

    /// `Split()`: the initiator's sending cipher, then the responder's.
    pub(super) fn split(&self) -> (CipherState, CipherState) {
        let (temp_k1, temp_k2) = hkdf(&self.ck, &[]);
        (CipherState::initialize_key(&temp_k1), CipherState::initialize_key(&temp_k2))
    }
}

// `MixKey` and `Split` make cipher keys of HKDF outputs without truncating them; spec 5.2 truncates 64-byte hashes.
const _: () = assert!(HASHLEN == KEY_LEN);

/// `HKDF(chaining_key, input_key_material, 2)`, spec 4.3: RFC 5869 with the chaining key as salt and no info.
pub(super) fn hkdf(chaining_key: &Secret, input_key_material: &[u8]) -> (Secret, Secret) {
    let temp_key = hmac_hash(chaining_key, &[input_key_material]);
    let output1 = hmac_hash(&temp_key, &[&[0x01]]);
    let output2 = hmac_hash(&temp_key, &[output1.as_slice(), &[0x02]]);
    (output1, output2)
}

/// `HMAC-HASH(key, data)`, spec 4.3 (RFC 2104), the data in parts.
pub(super) fn hmac_hash(key: &Secret, data: &[&[u8]]) -> Secret {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length (RFC 2104)");
    for part in data {
        mac.update(part);
    }
    let mut output = mac.finalize().into_bytes();
    let secret = Zeroizing::new(output.into());
    output.as_mut_slice().zeroize();
    secret
}
