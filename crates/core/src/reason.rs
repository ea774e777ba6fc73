//! Why: one typed reason for each close, drop, refusal and reported fault.
//!
//! There is no `Other(String)`: a reason is a metric label, a line in a log and a number on the wire.

use core::fmt;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $text:literal])+ $variant:ident = $code:literal, $label:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $text])+ $variant = $code,)*
        }

        impl $name {
            /// Every reason, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire and on disk; never reused for another meaning.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The reason with this number, if this version knows it.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// A stable name for metrics and logs.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            /// The reason in words, for a person.
            pub const fn explain(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($text),+).trim_ascii_start(),)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

reasons! {
    /// Why a connection ended or never came to be. Sent to the other side in REFUSE and CLOSE records by its code.
    CloseReason {
        /// The node is stopping.
        Shutdown = 1, "shutdown";
        /// The operator asked for it.
        Requested = 2, "requested";
        /// The peer is not needed any more: there are enough others.
        Surplus = 3, "surplus";
        /// Another connection to the same peer was kept.
        Duplicate = 4, "duplicate";
        /// All slots for peers are taken.
        TooManyPeers = 5, "too_many_peers";
        /// The peer is banned for now.
        Banned = 6, "banned";
        /// The peer broke the rules of a layer above too often.
        Misbehaviour = 7, "misbehaviour";
        /// No life from the other side for the whole heartbeat deadline.
        HeartbeatTimeout = 8, "heartbeat_timeout";
        /// The handshake did not finish in time.
        HandshakeTimeout = 9, "handshake_timeout";
        /// The first bytes are not those of a peer of this kind of network.
        WrongMagic = 10, "wrong_magic";
        /// No wire version in common.
        WrongVersion = 11, "wrong_version";
        /// The peer belongs to another network: its genesis differs.
        WrongNetwork = 12, "wrong_network";
        /// The handshake pattern or suite is not supported.
        WrongSuite = 13, "wrong_suite";
        /// Somebody else answered than the one who was dialled.
        WrongPeer = 14, "wrong_peer";
        /// The node reached itself.
        SelfConnection = 15, "self_connection";
        /// The identity proof does not verify.
        BadProof = 16, "bad_proof";
        /// A handshake message does not authenticate or is malformed.
        BadHandshake = 17, "bad_handshake";
        /// A record does not authenticate.
        BadRecord = 18, "bad_record";
        /// A record is longer than allowed.
        RecordTooLong = 19, "record_too_long";
        /// A record of a kind that has no place here.
        UnexpectedRecord = 20, "unexpected_record";
        /// The bytes inside a record are no messages.
        MalformedMessage = 21, "malformed_message";
        /// Fragments that do not make up a message.
        BadFragment = 22, "bad_fragment";
        /// A message is longer than its command allows.
        MessageTooLong = 23, "message_too_long";
        /// More was sent in a class than the receiver had granted.
        CreditExceeded = 24, "credit_exceeded";
        /// The peer hardly takes anything of what waits for it.
        SlowPeer = 25, "slow_peer";
        /// The node's memory budget is exhausted and stayed so.
        OverBudget = 26, "over_budget";
        /// The stream ended without a word.
        StreamEnded = 27, "stream_ended";
        /// The operating system reports an error on the stream.
        StreamError = 28, "stream_error";
        /// Nobody listens at the address, or the way there is blocked.
        DialRefused = 29, "dial_refused";
        /// The address did not answer in time.
        DialTimeout = 30, "dial_timeout";
        /// The other side gave a reason that this version does not know.
        Unknown = 31, "unknown";
        /// A key cannot seal another record.
        KeyExhausted = 32, "key_exhausted";
        /// Too many connections from one address, or from one group of addresses.
        AddressLimit = 33, "address_limit";
        /// Too many handshakes that do not come to an end.
        HalfOpenLimit = 34, "half_open_limit";
        /// New connections from one address, or one group of addresses, come too fast.
        TooFast = 35, "too_fast";
        /// A message was begun and then hardly went on.
        TooSlow = 36, "too_slow";
        /// The operator's lists keep the peer out.
        Denied = 37, "denied";
        /// The other side speaks the other security protocol: Noise where TLS was expected, or TLS where Noise was.
        OtherSecurity = 38, "other_security";
        /// A certificate that makes its holder no member: its form, its uses, its name, or the identity behind it.
        BadCertificate = 39, "bad_certificate";
        /// A certificate that no authority of the consortium has signed.
        UnknownAuthority = 40, "unknown_authority";
        /// No certificate was shown.
        NoCertificate = 41, "no_certificate";
        /// The certificate was revoked by its authority.
        CertificateRevoked = 42, "certificate_revoked";
        /// The certificate is not valid any more, or not yet.
        CertificateExpired = 43, "certificate_expired";
        /// Memory for incomplete messages is exhausted, and the peer or its group of addresses held most of it and brought least.
        Hoarding = 44, "hoarding";
    }
}

reasons! {
    /// What a peer did wrong, as reported by the layer that noticed. Only the peer manager draws consequences.
    Fault {
        /// A payload that does not decode, or not canonically.
        UndecodablePayload = 1, "undecodable_payload";
        /// A command that has no meaning in this direction or state.
        UnexpectedCommand = 2, "unexpected_command";
        /// An item that validation rejected.
        InvalidItem = 3, "invalid_item";
        /// A block whose signature, parent or roots are wrong.
        InvalidBlock = 4, "invalid_block";
        /// A transaction that could never be valid.
        InvalidTransaction = 5, "invalid_transaction";
        /// A node record that does not verify or contradicts an earlier one.
        InvalidRecord = 6, "invalid_record";
        /// A lookup answer that is not what was asked for.
        BadLookupAnswer = 7, "bad_lookup_answer";
        /// A sync answer that is not what was asked for.
        BadSyncAnswer = 8, "bad_sync_answer";
        /// A request that was never answered.
        UnansweredRequest = 9, "unanswered_request";
        /// More of something than a peer may send.
        Excess = 10, "excess";
        /// Memory that was short was kept by what it did not take, or did not go on with.
        KeptMemory = 11, "kept_memory";
    }
}

reasons! {
    /// Why a message was dropped instead of delivered.
    DropReason {
        /// Nobody here knows the command.
        UnknownCommand = 1, "unknown_command";
        /// The recipient is not connected.
        NotConnected = 2, "not_connected";
        /// The recipient owes more than a peer may.
        PeerOverLimit = 3, "peer_over_limit";
        /// The node's memory budget is exhausted.
        OverBudget = 4, "over_budget";
        /// The connection ended before the message could be sent.
        ConnectionLost = 5, "connection_lost";
        /// The message is longer than its command allows.
        TooLong = 6, "too_long";
        /// An answer to a request that is not, or no longer, waiting.
        Unrequested = 7, "unrequested";
        /// A request whose time was over before it could be sent.
        Superseded = 8, "superseded";
        /// Memory was short, and the recipient or its group of addresses kept most of it for longest.
        Shed = 9, "shed";
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClosedBy {
    /// This node.
    Us,
    /// The other side, which said why. Before keys stand, anyone on the path could have said it.
    Them,
    /// Neither: the stream broke.
    Network,
}

impl ClosedBy {
    /// A stable name for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Them => "them",
            Self::Network => "network",
        }
    }
}

/// How a connection ended: who, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Closed {
    /// Who ended it.
    pub by: ClosedBy,
    /// Why.
    pub reason: CloseReason,
}

impl Closed {
    /// We ended it.
    pub const fn by_us(reason: CloseReason) -> Self {
        Self { by: ClosedBy::Us, reason }
    }

    /// They ended it and said why.
    pub const fn by_them(reason: CloseReason) -> Self {
        Self { by: ClosedBy::Them, reason }
    }

    /// The stream broke.
    pub const fn by_network(reason: CloseReason) -> Self {
        Self { by: ClosedBy::Network, reason }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.by.label())
    }
}

/// Why a request has no answer. A request is answered or fails, never silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestError {
    /// No answer came in time.
    Timeout,
    /// The connection ended first.
    Closed(Closed),
    /// The request was never sent; or it went with first words, and whoever may drop those did not answer.
    Dropped(DropReason),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeout"),
            Self::Closed(closed) => write!(f, "closed: {closed}"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
        }
    }
}

/// Why a wish for somebody at once ([`Want::Now`](crate::Want::Now)) will not be granted, though no dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// No address of it is known that may be dialled.
    NoAddress,
    /// It is banned.
    Banned,
    /// The operator's lists forbid it.
    Denied,
    /// A dial failed just before; it rests.
    Resting,
    /// Somebody else is being dialled at the only address that may be.
    AddressInUse,
    /// Too many others are being dialled, and stayed so.
    Busy,
    /// Whoever told of it told of more that were not there than are dialled for one source in a while.
    Rationed,
    /// It was reached and not let in, for this reason; or nobody told how its dial ended.
    TurnedAway(CloseReason),
}

impl Unmet {
    /// A stable name for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoAddress => "no_address",
            Self::Banned => "banned",
            Self::Denied => "denied",
            Self::Resting => "resting",
            Self::AddressInUse => "address_in_use",
            Self::Busy => "busy",
            Self::Rationed => "rationed",
            Self::TurnedAway(_) => "turned_away",
        }
    }

    /// In words, for a person.
    pub const fn explain(self) -> &'static str {
        match self {
            Self::NoAddress => "No address of it is known that may be dialled.",
            Self::Banned => "It is banned.",
            Self::Denied => "The operator's lists forbid it.",
            Self::Resting => "A dial failed just before; it rests.",
            Self::AddressInUse => "Somebody else is being dialled at its address.",
            Self::Busy => "Too many others are being dialled.",
            Self::Rationed => "Whoever told of it told of too many who were not there.",
            Self::TurnedAway(reason) => reason.explain(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire_and_has_words_of_its_own() {
        let mut labels = std::collections::BTreeSet::new();
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(*reason));
            assert!(labels.insert(reason.label()), "{reason} twice");
            assert!(reason.explain().ends_with('.'), "{reason}: {}", reason.explain());
        }
        for fault in Fault::ALL {
            assert_eq!(Fault::from_code(fault.code()), Some(*fault));
        }
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!(CloseReason::from_code(0), None);
    }
}
