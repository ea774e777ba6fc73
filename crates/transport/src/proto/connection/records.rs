//! The record layer of a connection that stands: sealed by us, or in clear on a stream that is secured below.

use peerage_core::CloseReason;
use peerage_wire::{
    Magic, RecordDecoder, RecordKind,
    limits::{MAX_PLAINTEXT, RECORD_HEADER},
    put_record,
};

use super::sealed::{Opener, Sealer};
use crate::proto::noise::{CipherState, Split};

/// Writes the records of one connection and reads those of the other side.
#[derive(Debug)]
pub(super) enum Records {
    /// Under the keys of a Noise handshake.
    Sealed { sealer: Sealer, opener: Opener },
    /// With a header in clear, inside a stream that already hides, orders and authenticates what it carries.
    Plain { magic: Magic, decoder: RecordDecoder },
}

impl Records {
    /// Under these keys, each replaced after so many records.
    pub(super) fn sealed(keys: Split, rekey_every: u64) -> Self {
        let Split { send, receive, .. } = keys;
        Self::Sealed { sealer: Sealer::new(send, rekey_every), opener: Opener::new(receive, rekey_every) }
    }

    /// In clear, as the handshake before.
    pub(super) const fn plain(magic: Magic) -> Self {
        Self::Plain { magic, decoder: RecordDecoder::new(magic) }
    }

    /// Appends one record to `out`: `fill` appends its plaintext to the buffer, as many bytes at most as it is told. If it
    /// appends nothing, there is no record. Whether there is one.
    ///
    /// # Errors
    /// [`CloseReason::KeyExhausted`]; `out` is as it was then.
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        kind: RecordKind,
        fill: impl FnOnce(&mut Vec<u8>, usize),
    ) -> Result<bool, CloseReason> {
        match self {
            Self::Sealed { sealer, .. } => sealer.seal(out, kind, fill),
            Self::Plain { magic, .. } => {
                let start = out.len();
                put_record(out, *magic, kind, |out| fill(out, MAX_PLAINTEXT));
                let written = out.len() > start + RECORD_HEADER;
                if !written {
                    out.truncate(start);
                }
                Ok(written)
            }
        }
    }

    /// Appends a CLOSE record; an exhausted key says nothing.
    pub(super) fn write_close(&mut self, out: &mut Vec<u8>, reason: CloseReason) {
        match self {
            Self::Sealed { sealer, .. } => sealer.seal_close(out, reason),
            Self::Plain { magic, .. } => put_close(out, *magic, reason),
        }
    }

    /// Takes the next record off the front of `input`: its kind and plaintext, or `None` when the input is used up.
    ///
    /// # Errors
    /// Why the connection ends; the sender is at fault, or somebody on the path.
    pub(super) fn read<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<(RecordKind, &'a [u8])>, CloseReason> {
        match self {
            Self::Sealed { opener, .. } => opener.read(input),
            Self::Plain { decoder, .. } => {
                let record = decoder.read(input).map_err(|error| error.close_reason())?;
                Ok(record.map(|record| (record.kind, record.payload())))
            }
        }
    }
}

/// The last word of a side whose records nobody may read yet, or that needs no others.
#[derive(Debug)]
pub(super) enum LastWord {
    /// Under this key.
    Sealed(CipherState),
    /// In clear.
    Plain,
}

impl LastWord {
    /// Appends a CLOSE record.
    pub(super) fn write(self, out: &mut Vec<u8>, magic: Magic, rekey_every: u64, reason: CloseReason) {
        match self {
            Self::Sealed(cipher) => Sealer::new(cipher, rekey_every).seal_close(out, reason),
            Self::Plain => put_close(out, magic, reason),
        }
    }
}

fn put_close(out: &mut Vec<u8>, magic: Magic, reason: CloseReason) {
    put_record(out, magic, RecordKind::Close, |out| out.push(reason.code()));
}
