//! What a node decides about its discovery, and the numbers that are the same for all.

use core::{net::SocketAddr, time::Duration};
use std::sync::Arc;

use peerage_core::{Budget, NetworkId, NodeId, Seed};
use peerage_transport::proto::{keypair::Keypair, peer_manager::AddressPolicy};

/// The configuration of a [`Discovery`](crate::Discovery). Every value of this type is valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Signs the node's own record; its public half is the node's id.
    pub keypair: Arc<Keypair>,
    /// Records of other networks do not verify.
    pub network: NetworkId,
    /// Where the node can be reached from outside; what does not fit a record is left out. Empty if it cannot be reached:
    /// then it looks up others, but nobody finds it.
    pub addrs: Vec<SocketAddr>,
    /// Feature bits, put into the record as they are.
    pub features: u64,
    /// Whom to ask first. Their addresses come from the operator, so the policy does not apply to them;
    /// whoever has none is waited for until [`Command::SetSeeds`](crate::Command::SetSeeds) tells.
    pub seeds: Vec<(NodeId, Vec<SocketAddr>)>,
    /// Which addresses that the network tells are worth wanting. `Public` by default.
    pub addresses: AddressPolicy,
    /// With fewer peers than this the node walks the network every 30 s, else every 5 min (parameters, 4.4). 8 by default: as
    /// many outbound connections as the peer manager keeps by itself.
    pub target: usize,
    /// Dice: targets of walks and refreshes.
    pub seed: Seed,
    /// Pays for what discovery keeps of other nodes.
    pub budget: Budget,
}

impl Config {
    /// A node that knows nobody and listens nowhere yet.
    pub const fn new(keypair: Arc<Keypair>, network: NetworkId, seed: Seed, budget: Budget) -> Self {
        Self {
            keypair,
            network,
            addrs: Vec::new(),
            features: 0,
            seeds: Vec::new(),
            addresses: AddressPolicy::Public,
            target: 8,
            seed,
            budget,
        }
    }
}

/// Nodes in a bucket, and in an answer (k; as in geth and discv5: parameters, 4.1).
pub(crate) const K: usize = 16;
/// Newcomers that wait for a place in a full bucket (parameters, 4.1).
pub(crate) const REPLACEMENTS: usize = 10;
/// Nodes that a lookup asks at once (alpha; Maymounkov and Mazières 2002, 2.3).
pub(crate) const ALPHA: usize = 3;
/// Failures in a row after which a node's place is free for another (parameters, 4.1).
pub(crate) const MAX_FAILURES: u8 = 3;
/// Nodes of one /24 (IPv4) or /48 (IPv6) in one bucket (as in geth: parameters, 4.1).
pub(crate) const GROUP_IN_BUCKET: usize = 2;
/// Nodes of one /24 (IPv4) or /48 (IPv6) in the table (as in geth: parameters, 4.1).
pub(crate) const GROUP_IN_TABLE: usize = 10;
/// A node is named in answers for so long after it was last seen alive (parameters, 4.1).
pub(crate) const SERVE: Duration = Duration::from_hours(24);

/// A record is void after this time (as in libp2p: parameters, 4.2).
pub(crate) const EXPIRY: Duration = Duration::from_hours(48);
/// How far clocks may differ before a record counts as expired or not yet issued (our guess).
pub(crate) const SKEW: Duration = Duration::from_mins(10);
/// A node signs its record anew after this time (parameters, 4.2).
pub(crate) const REPUBLISH: Duration = Duration::from_hours(12);

/// A node looks itself up, and wants one of its seeds, so often (parameters, 4.4).
pub(crate) const SELF_LOOKUP: Duration = Duration::from_hours(1);
/// A bucket in whose range nothing was looked up for this time is refreshed (parameters, 4.4).
pub(crate) const REFRESH: Duration = Duration::from_mins(10);
/// How often buckets are examined: one refresh each time, so that they do not come all at once (our guess).
pub(crate) const UPKEEP: Duration = Duration::from_secs(60);
/// Random walks while there are too few peers (parameters, 4.4).
pub(crate) const WALK_HUNGRY: Duration = Duration::from_secs(30);
/// Random walks otherwise (parameters, 4.4).
pub(crate) const WALK_SATED: Duration = Duration::from_mins(5);
/// Without a peer that the node chose itself, seeds are wanted after this time, doubled each time up to the next constant (our guess: a dial takes 5 s).
pub(crate) const SEEDS_FIRST: Duration = Duration::from_secs(5);
/// The longest time between two attempts to reach the seeds (our guess).
pub(crate) const SEEDS_MOST: Duration = Duration::from_mins(2);
/// The least recently seen node of a full bucket is dialled at most this often to see whether it lives (our guess).
pub(crate) const CHECK: Duration = Duration::from_secs(60);

/// How long a lookup waits for a connection to a candidate (the handshake's deadline: parameters, 4.3).
pub(crate) const DIAL: Duration = Duration::from_secs(5);
/// Bounds of the time that a peer has to answer, four times its round trip (parameters, 4.3).
pub(crate) const ANSWER: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));
/// The time to answer of a peer whose round trip was not measured yet (parameters, 4.3).
pub(crate) const ANSWER_UNKNOWN: Duration = Duration::from_secs(1);

/// Candidates that one lookup remembers, the closest ones, and how many it asks at most (our guess: eight answers; among a thousand
/// nodes of which a third is dead it asks fewer than forty).
pub(crate) const CANDIDATES: usize = 128;
/// Records of nodes heard of that are remembered, so that a signature is checked once (our guess).
pub(crate) const HEARD: usize = 512;
/// What a node in the table or heard of is charged: its record of at most 300 bytes twice, encoded and decoded, and its
/// places in the maps (our estimate).
pub(crate) const ENTRY_BYTES: usize = 1_024;
/// What a lookup is charged: its candidates (our estimate).
pub(crate) const LOOKUP_BYTES: usize = CANDIDATES * 256;

/// The time over which a peer's messages are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Records that a peer may send in a window: one on connecting and a few changes (our guess).
pub(crate) const RECORDS_IN_WINDOW: u32 = 8;
/// Questions that a peer may ask in a window: a dozen lookups at once, each asking a peer once (our guess, ample).
pub(crate) const FINDS_IN_WINDOW: u32 = 100;
