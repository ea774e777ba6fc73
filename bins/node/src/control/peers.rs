//! What is said over the control socket about peers: who is there, who may come, how many.

use clap::Args;
use core::net::SocketAddr;
use peerage_core::{NodeId, UnixMillis};
use peerage_transport::proto::peer_manager::{Rule, Subject};
use serde::{Deserialize, Serialize};

use super::{PeerHead, Timing};
use crate::{cli::parse_duration, config::Seed, hex};

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    #[serde(with = "hex::text")]
    pub id: NodeId,
    /// The other end of the stream.
    pub addr: SocketAddr,
    /// Whether this node dialled.
    pub outbound: bool,
    /// By which right it has its place: `reserved`, `trusted`, `anchor`, `outbound`, `passing` or `inbound`.
    pub standing: String,
    /// Smoothed round-trip time, microseconds, once it was measured.
    pub rtt_micros: Option<u64>,
    /// What else the heartbeats have shown, once one came back.
    pub timing: Option<Timing>,
    /// What it says its last block is, once it said so and unless that was found to be untrue.
    pub head: Option<PeerHead>,
    /// How long it is connected, milliseconds.
    pub connected_ms: u64,
    /// Bytes that wait for it.
    pub owed_bytes: usize,
    /// Its misbehaviour points; at 100 it is banned.
    pub points: u32,
}

/// What an operator orders about peers. What it names and is not there is refused as `absent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerOrder {
    /// Ban somebody; outlives a restart.
    Ban {
        /// Whom.
        #[serde(with = "hex::text")]
        subject: Subject,
        /// For how long.
        seconds: u64,
    },
    /// Lift a ban.
    Unban {
        /// Whose.
        #[serde(with = "hex::text")]
        subject: Subject,
    },
    /// End the connection to a peer.
    Disconnect {
        /// Which.
        #[serde(with = "hex::text")]
        peer: NodeId,
    },
    /// Be connected to a peer always.
    Reserve {
        /// Which, and where it is; the node resolves the name.
        peer: Seed,
    },
    /// Treat a reserved peer like any other.
    Release {
        /// Which.
        #[serde(with = "hex::text")]
        peer: NodeId,
    },
    /// Let a peer in always.
    Trust {
        /// Which.
        #[serde(with = "hex::text")]
        peer: NodeId,
    },
    /// Treat a trusted peer like any other.
    Distrust {
        /// Which.
        #[serde(with = "hex::text")]
        peer: NodeId,
    },
    /// Add a line to a list.
    Add {
        /// Which list.
        list: List,
        /// The line.
        #[serde(with = "hex::text")]
        rule: Rule,
    },
    /// Take a line from a list.
    Remove {
        /// Which list.
        list: List,
        /// The line.
        #[serde(with = "hex::text")]
        rule: Rule,
    },
}

/// One of the operator's two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// Who alone may come in, while there is anybody on it.
    Allow,
    /// Who may not come in.
    Deny,
}

impl List {
    /// Its name, as in `config.toml`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A ban that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanState {
    /// Whose.
    #[serde(with = "hex::text")]
    pub subject: Subject,
    /// Until when.
    pub until_unix_ms: UnixMillis,
    /// How often it was banned so far.
    pub times: u32,
    /// Whether an operator ordered it, and not the node for what it did.
    pub by_hand: bool,
}

/// The operator's lists as they are now, whatever `config.toml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    /// Who alone may come in; all may if it is empty.
    #[serde(with = "hex::texts")]
    pub allow: Vec<Rule>,
    /// Who may not come in.
    #[serde(with = "hex::texts")]
    pub deny: Vec<Rule>,
    /// To whom the node is connected always.
    #[serde(with = "hex::texts")]
    pub reserved: Vec<NodeId>,
    /// Who is let in always.
    #[serde(with = "hex::texts")]
    pub trusted: Vec<NodeId>,
}

/// Limits to be changed; what is not named stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub struct LimitChange {
    /// Connections that the node opens and keeps.
    #[arg(long, value_name = "N")]
    pub target_peers: Option<usize>,
    /// All peers that are not reserved or trusted.
    #[arg(long, value_name = "N")]
    pub max_peers: Option<usize>,
    /// Of the connections that the node opens, those that may stay within one /16 of IPv4 or /32 of IPv6.
    #[arg(long, value_name = "N")]
    pub outbound_per_group: Option<usize>,
    /// How long a wish for a peer waits while all dials are taken, e.g. 2s.
    #[arg(long = "acquire-timeout", value_name = "TIME", value_parser = parse_millis)]
    pub acquire_timeout_ms: Option<u64>,
    /// How long a connection beyond `target_peers` is kept after it was wanted last, e.g. 10s.
    #[arg(long = "idle-timeout", value_name = "TIME", value_parser = parse_millis)]
    pub idle_timeout_ms: Option<u64>,
}

fn parse_millis(text: &str) -> Result<u64, &'static str> {
    u64::try_from(parse_duration(text)?.as_millis()).map_err(|_| "too long")
}

/// The limits as they are now, and how much of each is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections that the node opens and keeps.
    pub target_peers: usize,
    /// All peers that are not reserved or trusted.
    pub max_peers: usize,
    /// Of the connections that the node opens, those that may stay within one group.
    pub outbound_per_group: usize,
    /// How long a wish for a peer waits while all dials are taken, milliseconds.
    pub acquire_timeout_ms: u64,
    /// How long a connection beyond `target_peers` is kept after it was wanted last, milliseconds.
    pub idle_timeout_ms: u64,
    /// The memory budget, bytes; fixed at the start.
    pub budget_bytes: usize,
    /// Peers that this node dialled.
    pub outbound: usize,
    /// Peers that came by themselves.
    pub inbound: usize,
    /// Connections in all, handshakes included.
    pub links: usize,
    /// Bytes taken from the memory budget.
    pub resident_bytes: usize,
}
