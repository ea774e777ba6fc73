//! What an operator says about peers while the node runs.

use clap::{Args, Subcommand};
use core::time::Duration;
use peerage_core::NodeId;
use peerage_transport::proto::peer_manager::{Rule, Subject};
use std::path::PathBuf;

use super::{QueryArgs, parse_duration};
use crate::{config::Seed, control::LimitChange};

/// Orders about peers, and questions about what was ordered.
#[derive(Debug, Subcommand)]
pub enum OperateCommand {
    /// Send a peer, or a group of addresses, away and keep it away for a while; outlives a restart.
    Ban(BanArgs),
    /// Lift a ban.
    Unban(SubjectArgs),
    /// Who is banned, and for how long.
    Bans(QueryArgs),
    /// Who alone may come in, while the list is not empty.
    #[command(subcommand)]
    Allow(ListCommand),
    /// Who may not come in, whoever else names it.
    #[command(subcommand)]
    Deny(ListCommand),
    /// Be connected to a peer always, until the node stops.
    Reserve(ReserveArgs),
    /// Treat a reserved peer like any other.
    Release(PeerArgs),
    /// Let a peer in always, until the node stops.
    Trust(PeerArgs),
    /// Treat a trusted peer like any other.
    Distrust(PeerArgs),
    /// End the connection to a peer. It may come back.
    Disconnect(PeerArgs),
    /// How much of everything the node takes.
    #[command(subcommand)]
    Limits(LimitsCommand),
}

/// A running node.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The data directory of the node.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Arguments of `ban`.
#[derive(Debug, Args)]
pub struct BanArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Whom: a node id, or a group of addresses as 192.0.2.0/24 or 2001:db8:1::/48.
    #[arg(value_name = "NODEID|CIDR")]
    pub subject: Subject,
    /// For how long, e.g. 30m, 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub lasting: Duration,
}

/// Arguments of `unban`.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Whom: a node id, or a group of addresses as 192.0.2.0/24 or 2001:db8:1::/48.
    #[arg(value_name = "NODEID|CIDR")]
    pub subject: Subject,
}

/// Arguments of what concerns one peer.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The peer: its node id, 64 hexadecimal digits.
    #[arg(value_name = "NODEID")]
    pub peer: NodeId,
}

/// Arguments of `reserve`.
#[derive(Debug, Args)]
pub struct ReserveArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The peer, and where it is.
    #[arg(value_name = "NODEID@HOST:PORT")]
    pub peer: Seed,
}

/// Operations of `allow` and `deny`.
#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// Add a line, until the node stops.
    Add(RuleArgs),
    /// Take a line away, until the node stops.
    Remove(RuleArgs),
    /// Show the list.
    List(QueryArgs),
}

/// A line of a list.
#[derive(Debug, Args)]
pub struct RuleArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// A node id, an address, or a range of addresses as 192.0.2.0/24.
    #[arg(value_name = "NODEID|CIDR")]
    pub rule: Rule,
}

/// Operations of `limits`.
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Show them, and how much of each is used.
    Show(QueryArgs),
    /// Change some, until the node stops; what is not named stays.
    Set(SetLimitsArgs),
}

/// Arguments of `limits set`.
#[derive(Debug, Args)]
pub struct SetLimitsArgs {
    /// Where the node is, and how to print.
    #[command(flatten)]
    pub query: QueryArgs,
    /// What to change.
    #[command(flatten)]
    pub change: LimitChange,
}
