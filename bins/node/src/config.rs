//! Configuration: what the node was told, from file, environment and flags, and what follows from it.
//!
//! Flags win over `PEERAGE_*` variables, those over the file, that over the defaults. A [`NodeConfig`] exists only if all
//! of it makes sense.

use core::{fmt, net::SocketAddr, num::NonZeroU64, str::FromStr, time::Duration};
use peerage_core::{Budget, NodeId};
use peerage_transport::{
    driver::{Bandwidth, tls::TlsFiles},
    proto::peer_manager::{PeerLimits, Rule},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

use crate::toml_file::{Schema, TomlError, TomlFile};
pub(crate) use environment::{VARIABLES, layer_of};
pub use lists::{ListLine, Trusted};
use logs::DEFAULT_FILTER;
pub use logs::{LogConfig, LogFormat, LogLayer};
pub use security::{Security, TlsLayer};
pub(crate) use wait::LONGEST_WAIT;
pub use wait::Wait;

/// Port on which a node listens if nothing else is said. Our guess: not assigned by IANA, above the privileged ones.
pub const DEFAULT_PORT: u16 = 4477;
/// Peers that a node wants. 8: outbound connections of a Bitcoin node (BIP 155 era default), our guess for ours.
pub const DEFAULT_TARGET_PEERS: usize = 8;
/// Peers that a node admits. 64: our guess at what a small server serves easily.
pub const DEFAULT_MAX_PEERS: usize = 64;
/// Outbound connections that stay in one /16 of IPv4 or /32 of IPv6. 1: as in Bitcoin Core.
pub const DEFAULT_OUTBOUND_PER_GROUP: usize = 1;
/// Nobody needs more peers than this; a guard against slips. Our guess: below the usual limit of open files.
pub(crate) const MOST_PEERS: usize = 1000;
/// Less memory does not even hold a few of the largest messages. Our guess: sixteen of them.
const LEAST_BUDGET_BYTES: usize = 32 << 20;
/// A limit of fewer bytes a second is refused however few the peers are: that many keep those of [`DEFAULT_MAX_PEERS`] alive. Whoever
/// admits more needs more: `least_limit`.
pub const LEAST_LIMIT: u64 = 64 << 10;

/// The least limit of bytes a second, in either direction, that keeps the connections of `max_peers` alive: a message that was
/// begun must go on at 1 KiB/s (parameters, 1.3).
pub(crate) const fn least_limit(max_peers: usize) -> u64 {
    let needed = (max_peers as u64) << 10;
    if needed > LEAST_LIMIT { needed } else { LEAST_LIMIT }
}

/// The keys of `config.toml`.
pub const SCHEMA: Schema = &[
    (
        "",
        &[
            "listen",
            "advertise",
            "seeds",
            "reserved",
            "trusted",
            "allow",
            "deny",
            "target_peers",
            "max_peers",
            "outbound_per_group",
            "acquire_timeout",
            "idle_timeout",
            "budget_bytes",
            "egress_limit",
            "ingress_limit",
            "outbox",
            "compression",
            "security",
            "tls",
            "log",
        ],
    ),
    ("tls", &["ca", "certificate", "key", "crl"]),
    ("log", &["filter", "format"]),
];

/// Why there is no configuration. The operator's to mend; each says where.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] TomlError),
    /// A variable that looks like a misspelt one of ours.
    #[error("unknown environment variable {name}; did you mean {suggestion}?")]
    UnknownVariable {
        /// As it is set.
        name: String,
        /// As it was probably meant.
        suggestion: &'static str,
    },
    /// A variable whose value does not parse.
    #[error("environment variable {name}: {reason}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting that makes no sense, alone or beside the others.
    #[error("{setting}, from {origin}: {reason}")]
    Invalid {
        /// Which.
        setting: &'static str,
        /// Where its value was given.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file, on this line.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(&'static str),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("the command line"),
        }
    }
}

/// A node that is known from the start. Written `nodeid@host:port`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed {
    id: NodeId,
    host: String,
    port: u16,
}

impl Seed {
    /// Who must answer there.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// A name to be resolved, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Never 0.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// Text that is no seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseSeedError {
    /// No `@`, or no `:` behind it.
    #[error("a seed is written nodeid@host:port")]
    Shape,
    /// What stands before the `@` is no identity.
    #[error("before the @ of a seed stands a node's identity, 64 hexadecimal digits: see `peerage key show`")]
    Id,
    /// What stands between `@` and the last `:` is no name and no address.
    #[error("a seed's host is a name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// What stands behind the last `:` is no port.
    #[error("a seed's port is a number from 1 to 65535")]
    Port,
}

impl FromStr for Seed {
    type Err = ParseSeedError;

    fn from_str(text: &str) -> Result<Self, ParseSeedError> {
        let (id, place) = text.split_once('@').ok_or(ParseSeedError::Shape)?;
        let (host, port) = place.rsplit_once(':').ok_or(ParseSeedError::Shape)?;
        let id = id.parse().map_err(|_| ParseSeedError::Id)?;
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().map_err(|_| ParseSeedError::Host)?.to_string(),
            // 253: the longest name that the DNS can carry (RFC 1035, 2.3.4, as text).
            None if !host.is_empty() && host.len() <= 253 && host.chars().all(in_name) => host.to_owned(),
            None => return Err(ParseSeedError::Host),
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(ParseSeedError::Port)?;
        Ok(Self { id, host, port })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, host, port } = self;
        if host.contains(':') { write!(f, "{id}@[{host}]:{port}") } else { write!(f, "{id}@{host}:{port}") }
    }
}

impl TryFrom<String> for Seed {
    type Error = ParseSeedError;

    fn try_from(text: String) -> Result<Self, ParseSeedError> {
        text.parse()
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        seed.to_string()
    }
}

/// One layer of settings: what a file, the environment or the flags say, the rest unsaid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// See [`NodeConfig::listen`].
    pub listen: Option<SocketAddr>,
    /// See [`NodeConfig::advertise`].
    pub advertise: Option<SocketAddr>,
    /// See [`NodeConfig::seeds`]. A layer replaces the list of the layer below.
    pub seeds: Option<Vec<Seed>>,
    /// See [`NodeConfig::reserved`].
    pub reserved: Option<Vec<Seed>>,
    /// See [`NodeConfig::trusted`].
    pub trusted: Option<Vec<Trusted>>,
    /// See [`NodeConfig::allow`].
    pub allow: Option<Vec<ListLine>>,
    /// See [`NodeConfig::deny`].
    pub deny: Option<Vec<ListLine>>,
    /// See [`NodeConfig::target_peers`].
    pub target_peers: Option<usize>,
    /// See [`NodeConfig::max_peers`].
    pub max_peers: Option<usize>,
    /// See [`NodeConfig::outbound_per_group`].
    pub outbound_per_group: Option<usize>,
    /// See [`NodeConfig::acquire_timeout`].
    pub acquire_timeout: Option<Wait>,
    /// See [`NodeConfig::idle_timeout`].
    pub idle_timeout: Option<Wait>,
    /// See [`NodeConfig::budget_bytes`].
    pub budget_bytes: Option<usize>,
    /// See [`NodeConfig::bandwidth`]; 0 for no limit.
    pub egress_limit: Option<u64>,
    /// See [`NodeConfig::bandwidth`]; 0 for no limit.
    pub ingress_limit: Option<u64>,
    /// See [`NodeConfig::outbox`].
    pub outbox: Option<bool>,
    /// See [`NodeConfig::compression`].
    pub compression: Option<bool>,
    /// See [`NodeConfig::tls`].
    pub security: Option<Security>,
    /// See [`NodeConfig::tls`].
    #[serde(default)]
    pub tls: TlsLayer,
    /// See [`NodeConfig::log`].
    #[serde(default)]
    pub log: LogLayer,
}

/// The configuration of a node. It makes sense as a whole: there is no other way to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    data_dir: PathBuf,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
    seeds: Vec<Seed>,
    reserved: Vec<Seed>,
    trusted: Vec<NodeId>,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    target_peers: usize,
    max_peers: usize,
    outbound_per_group: usize,
    acquire_timeout: Duration,
    idle_timeout: Duration,
    budget_bytes: usize,
    bandwidth: Bandwidth,
    outbox: bool,
    compression: bool,
    tls: Option<TlsFiles>,
    log: LogConfig,
}

impl NodeConfig {
    /// The configuration of the node in `data_dir`: its `config.toml` if there is one, then `environment` (all of it;
    /// foreign variables are passed over), then `flags`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(
        data_dir: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Layer,
    ) -> Result<Self, ConfigError> {
        let path = data_dir.join("config.toml");
        let file = match TomlFile::<Layer>::load(&path, SCHEMA) {
            Err(TomlError::Read { reason, .. }) if reason.kind() == std::io::ErrorKind::NotFound => None,
            read => Some(read?),
        };
        Self::resolve(data_dir, file, environment, flags)
    }

    /// The same from a file that is read already.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve(
        data_dir: &Path,
        file: Option<TomlFile<Layer>>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Layer,
    ) -> Result<Self, ConfigError> {
        let environment = layer_of(environment)?;
        let (written, at) = match file {
            Some(file) => (file.value.clone(), Some(file)),
            None => (Layer::default(), None),
        };
        let origins = Origins { file: at, environment: environment.clone(), flags: flags.clone() };
        let origin = |setting| origins.of(setting);
        let invalid = |setting, reason: &str| {
            Err(ConfigError::Invalid { setting, origin: origin(setting), reason: reason.to_owned() })
        };
        macro_rules! pick {
            ($($field:ident).+) => { flags.$($field).+.clone().or(environment.$($field).+).or(written.$($field).+) };
        }
        let tls = TlsLayer {
            ca: pick!(tls.ca),
            certificate: pick!(tls.certificate),
            key: pick!(tls.key),
            crl: pick!(tls.crl),
        };
        let tls = match pick!(security).unwrap_or_default() {
            Security::Noise => Ok(None),
            Security::Mtls => tls.files(data_dir).map(Some),
        };
        let missing = tls.as_ref().err().copied();
        let limits = PeerLimits::default();
        let any = SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT));
        let config = Self {
            data_dir: data_dir.to_owned(),
            listen: pick!(listen).unwrap_or(any),
            advertise: pick!(advertise),
            seeds: pick!(seeds).unwrap_or_default(),
            reserved: pick!(reserved).unwrap_or_default(),
            trusted: pick!(trusted).unwrap_or_default().into_iter().map(|trusted| trusted.0).collect(),
            allow: pick!(allow).unwrap_or_default().into_iter().map(|line| line.0).collect(),
            deny: pick!(deny).unwrap_or_default().into_iter().map(|line| line.0).collect(),
            target_peers: pick!(target_peers).unwrap_or(DEFAULT_TARGET_PEERS),
            max_peers: pick!(max_peers).unwrap_or(DEFAULT_MAX_PEERS),
            outbound_per_group: pick!(outbound_per_group).unwrap_or(DEFAULT_OUTBOUND_PER_GROUP),
            acquire_timeout: pick!(acquire_timeout).map_or(limits.acquire_timeout, Wait::duration),
            idle_timeout: pick!(idle_timeout).map_or(limits.idle_timeout, Wait::duration),
            budget_bytes: pick!(budget_bytes).unwrap_or(Budget::DEFAULT_CAP),
            bandwidth: Bandwidth {
                egress: pick!(egress_limit).and_then(NonZeroU64::new),
                ingress: pick!(ingress_limit).and_then(NonZeroU64::new),
            },
            outbox: pick!(outbox).unwrap_or(true),
            compression: pick!(compression).unwrap_or(false),
            tls: tls.unwrap_or_default(),
            log: LogConfig {
                filter: pick!(log.filter).unwrap_or_else(|| DEFAULT_FILTER.to_owned()),
                format: pick!(log.format).unwrap_or_default(),
            },
        };
        if config.advertise.is_some_and(|addr| addr.ip().is_unspecified() || addr.port() == 0) {
            return invalid("advertise", "others cannot dial this: give the address at which they reach the node");
        }
        if let Some(setting) = missing {
            return invalid(setting, "`security = \"mtls\"` needs it; `peerage ca` makes it");
        }
        if config.max_peers == 0 || config.max_peers > MOST_PEERS {
            return invalid("max_peers", &format!("1 to {MOST_PEERS} are possible"));
        }
        if config.target_peers == 0 || config.target_peers > config.max_peers {
            return invalid("target_peers", &format!("1 to {} (`max_peers`) are possible", config.max_peers));
        }
        if config.outbound_per_group == 0 {
            return invalid("outbound_per_group", "1 is the least");
        }
        if config.budget_bytes < LEAST_BUDGET_BYTES {
            return invalid("budget_bytes", &format!("a node needs {LEAST_BUDGET_BYTES} at least"));
        }
        let Bandwidth { egress, ingress } = config.bandwidth;
        for (setting, limit) in [("egress_limit", egress), ("ingress_limit", ingress)] {
            let (max_peers, least) = (config.max_peers, least_limit(config.max_peers));
            if limit.is_some_and(|limit| limit.get() < least) {
                let reason = format!(
                    "a node needs {least} bytes a second at least, with `max_peers` at {max_peers}; 0 is no limit"
                );
                return invalid(setting, &reason);
            }
        }
        // Blanks in front of a directive shift what `tracing-subscriber` reads of it, and beside other letters it panics.
        if !config.log.filter.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid(
                "log.filter",
                "directives are written in ASCII and without blanks: `info,peerage_gossip=debug`",
            );
        }
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&config.log.filter) {
            return invalid("log.filter", &error.to_string());
        }
        Ok(config)
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where the node listens; port 0 lets the system choose. Default: all IPv4 addresses, [`DEFAULT_PORT`].
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The address that others are told; a concrete address and port. Default: where the node listens, if that is a concrete
    /// address; else nothing, and then nobody can find the node.
    pub const fn advertise(&self) -> Option<SocketAddr> {
        self.advertise
    }

    /// Nodes to begin with. Default: none.
    pub fn seeds(&self) -> &[Seed] {
        &self.seeds
    }

    /// Nodes to be connected to always: dialled for ever, never evicted or banned. Default: none.
    pub fn reserved(&self) -> &[Seed] {
        &self.reserved
    }

    /// Nodes to be let in always: never refused for want of room, evicted or banned. Default: none.
    pub fn trusted(&self) -> &[NodeId] {
        &self.trusted
    }

    /// If this is not empty, nobody else comes in or is dialled, except those reserved and trusted. Default: empty.
    pub fn allow(&self) -> &[Rule] {
        &self.allow
    }

    /// Who never comes in and is never dialled, whatever else is said of them. Default: nobody.
    pub fn deny(&self) -> &[Rule] {
        &self.deny
    }

    /// How many connections that the node opened may stay in one /16 of IPv4 or /32 of IPv6; at least 1.
    pub const fn outbound_per_group(&self) -> usize {
        self.outbound_per_group
    }

    /// How long a wish for a peer waits while all dials are taken.
    pub const fn acquire_timeout(&self) -> Duration {
        self.acquire_timeout
    }

    /// How long a connection beyond [`target_peers`](Self::target_peers) is kept after it was wanted last.
    pub const fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// How many peers the node wants: from 1 to [`max_peers`](Self::max_peers).
    pub const fn target_peers(&self) -> usize {
        self.target_peers
    }

    /// How many peers the node admits.
    pub const fn max_peers(&self) -> usize {
        self.max_peers
    }

    /// Bytes that the node keeps at most because others asked for it.
    pub const fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Bytes a second that the node sends and reads at most, over all connections. Default: no limit.
    pub const fn bandwidth(&self) -> Bandwidth {
        self.bandwidth
    }

    /// Whether acknowledged transactions survive a crash of this node. Default: yes.
    pub const fn outbox(&self) -> bool {
        self.outbox
    }

    /// Whether blocks and other public bodies go compressed between this node and those that do it too. Default: no.
    pub const fn compression(&self) -> bool {
        self.compression
    }

    /// The certificates, if `security` is `mtls`. Default: `noise`, which needs none.
    pub const fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// What is logged, and how.
    pub const fn log(&self) -> &LogConfig {
        &self.log
    }
}

/// What each layer said, to tell where a value comes from.
struct Origins {
    file: Option<TomlFile<Layer>>,
    environment: Layer,
    flags: Layer,
}

impl Origins {
    fn of(&self, setting: &'static str) -> Origin {
        let says = |layer: &Layer| match setting {
            "advertise" => layer.advertise.is_some(),
            "target_peers" => layer.target_peers.is_some(),
            "max_peers" => layer.max_peers.is_some(),
            "outbound_per_group" => layer.outbound_per_group.is_some(),
            "budget_bytes" => layer.budget_bytes.is_some(),
            "egress_limit" => layer.egress_limit.is_some(),
            "ingress_limit" => layer.ingress_limit.is_some(),
            "log.filter" => layer.log.filter.is_some(),
            _ => false,
        };
        let variable = format!("PEERAGE_{}", setting.replace('.', "_").to_uppercase());
        match &self.file {
            _ if says(&self.flags) => Origin::Flag,
            _ if says(&self.environment) => {
                VARIABLES.iter().find(|name| **name == variable).map_or(Origin::Default, |name| Origin::Variable(name))
            }
            Some(file) if says(&file.value) => Origin::File(file.path().to_owned(), file.line(setting)),
            _ => Origin::Default,
        }
    }
}

/// What `init` writes: all settings with their defaults, as comments.
pub const TEMPLATE: &str = include_str!("config_template.toml");

mod environment;
mod lists;
mod logs;
mod security;
#[cfg(test)]
mod tests;
mod wait;
