//! Every size limit of the wire in one place, each with its origin. All are in bytes.

use peerage_core::{Class, Command};
use std::collections::{BTreeMap, BTreeSet};

/// Magic, version, flags, kind and length of a record in clear.
pub const RECORD_HEADER: usize = 4 + 1 + 1 + 2 + 4;

/// Plaintext of one record, the byte of kind and flags not counted: no urgent message waits behind more than this
/// (parameters, 1.2; 16 KiB is also the record of TLS, RFC 8446 section 5.1).
pub const MAX_PLAINTEXT: usize = 16_384;

/// The length in front of a sealed record.
pub const SEALED_HEADER: usize = 2;

/// Kind and flags, the first byte of a sealed record's plaintext.
pub const KIND_BYTE: usize = 1;

/// The tag of the AEAD (RFC 8439 section 2.8).
pub const TAG: usize = 16;

/// What a sealed record adds to its plaintext.
pub const SEALED_OVERHEAD: usize = SEALED_HEADER + KIND_BYTE + TAG;

/// The AEAD body of the longest sealed record: kind, plaintext, tag.
pub const MAX_SEALED_BODY: usize = KIND_BYTE + MAX_PLAINTEXT + TAG;

/// The fixed layout of a preamble: two versions, network, pattern, suite, flags.
pub const PREAMBLE: usize = 1 + 1 + 32 + 1 + 1 + 1;

/// One handshake message. Message 2 of XX is 32 (ephemeral) + 48 (static) + payload + 16, and a payload is padded to a
/// multiple of 256; fifteen such blocks are far more than a proof, a node record and its addresses take (our guess).
pub const MAX_HANDSHAKE: usize = 4096;

/// A reason to refuse or to close: its code.
pub const REASON: usize = 1;

/// A message with all framing (parameters, 1.2).
pub const MAX_MESSAGE: usize = 2 << 20;

/// Framing of a message that fills its records: at most 23 bytes for the first fragment and 6 for each of 128 more, and
/// some to spare.
pub const MAX_FRAMING: usize = 1024;

/// Head and body of the longest message together.
pub const MAX_CONTENT: usize = MAX_MESSAGE - MAX_FRAMING;

/// What a message in memory is charged beside its bytes: the value itself, its slot in a queue that may be half empty
/// and two heap headers. Without it a flood of empty messages would be free (our estimate; a test compares it with the
/// size of [`Incoming`](crate::Incoming)).
pub const MESSAGE_OVERHEAD: usize = 256;

/// Head and body of a message of a class, unless its command says otherwise.
pub const fn class_default(class: Class) -> usize {
    match class {
        Class::Control => 1 << 10,     // 64 opaque bytes and a few numbers at most
        Class::Consensus => 256 << 10, // headers and certificates; bodies travel below (parameters, 1.2)
        Class::Signal => 64 << 10,     // two thousand hashes
        Class::Gossip | Class::Bulk => MAX_CONTENT,
    }
}

/// How long a message of each command may be, head and body together, in bytes; and which commands are public.
///
/// Built once per node from the tables that the layers export; a command in none of them gets the default of its class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(BTreeMap<Command, usize>, BTreeSet<Command>);

impl Limits {
    /// The limits in these tables of `(command, bytes)`. None is above [`MAX_CONTENT`]: what a table allows beyond it is
    /// cut to it. Should two tables name one command, the lower limit counts.
    pub fn new(tables: &[&[(Command, u32)]]) -> Self {
        let mut limits = BTreeMap::new();
        for &(command, bytes) in tables.iter().copied().flatten() {
            let limit: &mut usize = limits.entry(command).or_insert(MAX_CONTENT);
            *limit = (*limit).min(usize::try_from(bytes).unwrap_or(MAX_CONTENT));
        }
        Self(limits, BTreeSet::new())
    }

    /// The same, with what these tables of commands name as public: bodies that everybody may know, so that their compressed
    /// length tells nobody anything. Only such may be compressed (the attacks CRIME and BREACH read secrets from the length
    /// of what is compressed together with an attacker's words). Commands of class `Control` are never public.
    ///
    /// All nodes of a network have the same tables: whoever knows a command as one that is not public ends the connection on its
    /// compressed body, with `malformed_message`. So no command in use can become public, only a new one.
    pub fn with_public(mut self, tables: &[&[Command]]) -> Self {
        let public = tables.iter().copied().flatten().filter(|command| command.class() != Class::Control);
        self.1.extend(public);
        self
    }

    /// The limit of a command, in bytes.
    pub fn of(&self, command: Command) -> usize {
        self.0.get(&command).copied().unwrap_or_else(|| class_default(command.class()))
    }

    /// Whether some table names the command.
    pub fn knows(&self, command: Command) -> bool {
        self.0.contains_key(&command)
    }

    /// Whether some table names the command as public.
    pub fn is_public(&self, command: Command) -> bool {
        self.1.contains(&command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_core::Layer;

    #[test]
    fn a_table_beats_the_class_and_nothing_beats_the_maximum() {
        let vote = Command::new(Layer::Chain, 0, Class::Consensus);
        let block = Command::new(Layer::Chain, 1, Class::Gossip);
        let other = Command::new(Layer::Chain, 2, Class::Signal);
        let limits = Limits::new(&[&[(vote, 500)], &[(block, u32::MAX), (vote, 600)]]);
        assert_eq!((limits.of(vote), limits.of(block), limits.of(other)), (500, MAX_CONTENT, 64 << 10));
        assert!(limits.knows(vote) && !limits.knows(other));
    }

    #[test]
    fn public_is_what_a_table_says_and_the_transports_own_never() {
        let (block, ping) =
            (Command::new(Layer::Chain, 1, Class::Gossip), Command::new(Layer::Transport, 0, Class::Control));
        let limits = Limits::new(&[&[(block, 500), (ping, 100)]]).with_public(&[&[block], &[ping]]);
        assert!(limits.is_public(block) && !limits.is_public(ping));
        assert!(!Limits::new(&[&[(block, 500)]]).is_public(block), "what may be long is not thereby public");
    }

    #[test]
    fn the_overhead_of_a_sealed_record_is_nineteen_bytes() {
        assert_eq!((SEALED_OVERHEAD, MAX_SEALED_BODY, PREAMBLE), (19, 16_401, 37));
    }
}
