//! Records under keys, encrypted and decrypted in place, with a new key every so many of them.

use peerage_core::CloseReason;
use peerage_wire::{
    RecordKind, SealedDecoder, begin_sealed, finish_sealed,
    limits::{MAX_PLAINTEXT, SEALED_HEADER},
    open_plaintext,
};

use crate::proto::noise::CipherState;

/// A key of one direction, replaced after every so many records; both sides count the same ones.
#[derive(Debug)]
struct Key {
    cipher: CipherState,
    rekey_every: u64,
}

impl Key {
    fn count(&mut self) {
        if self.cipher.nonce().is_multiple_of(self.rekey_every) {
            self.cipher.rekey();
        }
    }
}

/// Seals what we send.
#[derive(Debug)]
pub(super) struct Sealer(Key);

impl Sealer {
    pub(super) const fn new(cipher: CipherState, rekey_every: u64) -> Self {
        Self(Key { cipher, rekey_every })
    }

    /// Appends one sealed record to `out`: `fill` appends its plaintext to the buffer, as many bytes at most as it is told.
    /// If it appends nothing, there is no record. Whether there is one.
    ///
    /// # Errors
    /// [`CloseReason::KeyExhausted`]; `out` is as it was then.
    pub(super) fn seal(
        &mut self,
        out: &mut Vec<u8>,
        kind: RecordKind,
        fill: impl FnOnce(&mut Vec<u8>, usize),
    ) -> Result<bool, CloseReason> {
        let start = begin_sealed(out, kind);
        let empty = out.len();
        fill(out, MAX_PLAINTEXT);
        if out.len() == empty {
            out.truncate(start);
            return Ok(false);
        }
        let body = finish_sealed(out, start);
        // No associated data: the length is implied by where the tag fits, order and count by the nonce.
        let Ok(tag) = self.0.cipher.encrypt_with_ad(&[], &mut out[body..]) else {
            out.truncate(start);
            return Err(CloseReason::KeyExhausted);
        };
        out.extend_from_slice(&tag);
        debug_assert!(out.len() - body <= usize::from(u16::MAX) && body == start + SEALED_HEADER);
        self.0.count();
        Ok(true)
    }

    /// Appends a CLOSE record; an exhausted key says nothing.
    pub(super) fn seal_close(&mut self, out: &mut Vec<u8>, reason: CloseReason) {
        let _ = self.seal(out, RecordKind::Close, |out, _| out.push(reason.code()));
    }
}

/// Opens what the other side sealed.
#[derive(Debug)]
pub(super) struct Opener {
    key: Key,
    decoder: SealedDecoder,
}

impl Opener {
    pub(super) const fn new(cipher: CipherState, rekey_every: u64) -> Self {
        Self { key: Key { cipher, rekey_every }, decoder: SealedDecoder::new() }
    }

    /// Takes the next record off the front of `input`: its kind and plaintext, or `None` when the input is used up.
    ///
    /// # Errors
    /// Why the connection ends; the sender is at fault, or somebody on the path.
    pub(super) fn read<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<(RecordKind, &'a [u8])>, CloseReason> {
        let Some(body) = self.decoder.read(input).map_err(|error| error.close_reason())? else { return Ok(None) };
        let plaintext = self.key.cipher.decrypt_with_ad(&[], body).map_err(|error| {
            if error.is_remote_fault() { CloseReason::BadRecord } else { CloseReason::KeyExhausted }
        })?;
        self.key.count();
        open_plaintext(plaintext).map(Some).map_err(|error| error.close_reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of the count of one key, which no connection lives to see: the same test for both directions.
    #[test]
    fn a_key_at_its_end_seals_and_opens_nothing_and_the_connection_ends_for_that() {
        const LAST: u64 = 1 << 60; // the hard stop of `CipherState`
        let [mut ours, mut theirs] = [(); 2].map(|()| CipherState::initialize_key(&[7; 32]));
        ours.set_nonce(LAST - 1);
        theirs.set_nonce(LAST - 1);
        // No rekey in between, which would not help either.
        let (mut sealer, mut opener) = (Sealer::new(ours, u64::MAX), Opener::new(theirs, u64::MAX));
        let (mut last, text) = (Vec::new(), |out: &mut Vec<u8>, _| out.extend_from_slice(b"last"));
        assert_eq!(sealer.seal(&mut last, RecordKind::Data, text), Ok(true));
        assert_eq!(opener.read(&mut &last[..]), Ok(Some((RecordKind::Data, &b"last"[..]))));

        let mut more = Vec::new();
        assert_eq!(sealer.seal(&mut more, RecordKind::Data, text), Err(CloseReason::KeyExhausted));
        sealer.seal_close(&mut more, CloseReason::KeyExhausted);
        assert_eq!(more, [0; 0], "nothing leaves under a nonce used before, not even the reason");
        assert_eq!(opener.read(&mut &last[..]), Err(CloseReason::KeyExhausted));
    }
}
