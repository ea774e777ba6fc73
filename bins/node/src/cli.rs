//! The command line.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use core::{fmt, net::SocketAddr, time::Duration};
use peerage_core::NodeId;
use peerage_transport::key_file::KeyKind;
use std::path::PathBuf;

mod operate;

use crate::config::{Layer, ListLine, LogFormat, LogLayer, Security, Seed, TlsLayer, Trusted, Wait};
pub use operate::{
    BanArgs, LimitsCommand, ListCommand, NodeArgs, OperateCommand, PeerArgs, ReserveArgs, RuleArgs, SetLimitsArgs,
    SubjectArgs,
};

/// A node that proves itself, finds its peers and agrees with them on a ledger.
#[derive(Debug, Parser)]
#[command(name = "peerage", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What needs no node in this process.
    #[command(flatten)]
    Client(ClientCommand),
    /// Run the node of a data directory until it is told to stop.
    Run(Box<RunArgs>),
    /// Run a network of nodes on this machine under load, then verify it.
    Devnet(DevnetArgs),
    /// Check the stores of stopped nodes: every block, every signature, the state, and that they agree.
    Verify(VerifyArgs),
}

/// Commands that work on files or talk to a running node.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a data directory: keys, configuration, and a genesis for a new network unless one is given.
    Init(InitArgs),
    /// How a running node is.
    Status(QueryArgs),
    /// With whom a running node is connected.
    Peers(QueryArgs),
    /// What passes over the connections of a running node, and how much may.
    Bandwidth(BandwidthArgs),
    /// What happened between a running node and a peer, and why.
    Why(WhyArgs),
    /// Orders about peers, and questions about what was ordered.
    #[command(flatten)]
    Operate(OperateCommand),
    /// Sign a transaction and give it to a running node.
    #[command(subcommand)]
    Tx(TxCommand),
    /// What a key holds, as a running node knows it.
    Get(GetArgs),
    /// Make and show key files.
    #[command(subcommand)]
    Key(KeyCommand),
    /// A consortium's certificate authority, for `security = "mtls"`.
    #[command(subcommand)]
    Ca(CaCommand),
    /// The certificates of a running node.
    #[command(subcommand)]
    Tls(TlsCommand),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The data directory; created if need be. What is there already is kept.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Genesis of the network to join.
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// Name of the network to start, with this node as its only producer.
    #[arg(long, value_name = "NAME", default_value = "local", conflicts_with = "genesis")]
    pub network: String,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Stop when standard input ends, so that the node does not outlive the process that started it.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
    /// Settings that win over environment and file.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Settings on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct SettingArgs {
    /// Where to listen for peers.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// The address at which others reach this node.
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// A node to begin with; may be given many times.
    #[arg(long = "seed", value_name = "NODEID@HOST:PORT")]
    pub seeds: Vec<Seed>,
    /// A node to be connected to always; may be given many times.
    #[arg(long = "reserved", value_name = "NODEID@HOST:PORT")]
    pub reserved: Vec<Seed>,
    /// A node that is let in always; may be given many times.
    #[arg(long = "trusted", value_name = "NODEID")]
    pub trusted: Vec<Trusted>,
    /// An identity, address or range that alone comes in; may be given many times.
    #[arg(long = "allow", value_name = "RULE")]
    pub allow: Vec<ListLine>,
    /// An identity, address or range that never comes in; may be given many times.
    #[arg(long = "deny", value_name = "RULE")]
    pub deny: Vec<ListLine>,
    /// How many peers to want.
    #[arg(long, value_name = "N")]
    pub target_peers: Option<usize>,
    /// How many peers to admit.
    #[arg(long, value_name = "N")]
    pub max_peers: Option<usize>,
    /// How many of the wanted peers may be in one /16 of IPv4 or /32 of IPv6.
    #[arg(long, value_name = "N")]
    pub outbound_per_group: Option<usize>,
    /// How long a wish for a peer waits while all dials are taken, e.g. 2s.
    #[arg(long, value_name = "TIME")]
    pub acquire_timeout: Option<Wait>,
    /// How long a connection beyond the wanted peers is kept after it was wanted last, e.g. 10s.
    #[arg(long, value_name = "TIME")]
    pub idle_timeout: Option<Wait>,
    /// Memory for what is kept because others asked for it.
    #[arg(long, value_name = "BYTES")]
    pub budget_bytes: Option<usize>,
    /// Bytes a second that the node sends at most; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    pub egress_limit: Option<u64>,
    /// Bytes a second that the node reads at most; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    pub ingress_limit: Option<u64>,
    /// Whether acknowledged transactions survive a crash of this node.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub outbox: Option<bool>,
    /// Whether blocks and transactions are sent compressed to peers that do it too.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub compression: Option<bool>,
    /// What secures connections.
    #[arg(long, value_name = "PROTOCOL")]
    pub security: Option<Security>,
    /// For mtls: the certificates of the authorities.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// For mtls: the certificate of this node.
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// For mtls: its secret key.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// For mtls: which certificates were revoked.
    #[arg(long, value_name = "FILE")]
    pub tls_crl: Option<PathBuf>,
    /// What to log, e.g. "info,peerage_gossip=debug".
    #[arg(long = "log", value_name = "FILTER")]
    pub log_filter: Option<String>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl From<SettingArgs> for Layer {
    fn from(args: SettingArgs) -> Self {
        // What clap makes of a flag that was not given is an empty list.
        fn said<T>(list: Vec<T>) -> Option<Vec<T>> {
            (!list.is_empty()).then_some(list)
        }
        Self {
            listen: args.listen,
            advertise: args.advertise,
            seeds: said(args.seeds),
            reserved: said(args.reserved),
            trusted: said(args.trusted),
            allow: said(args.allow),
            deny: said(args.deny),
            target_peers: args.target_peers,
            max_peers: args.max_peers,
            outbound_per_group: args.outbound_per_group,
            acquire_timeout: args.acquire_timeout,
            idle_timeout: args.idle_timeout,
            budget_bytes: args.budget_bytes,
            egress_limit: args.egress_limit,
            ingress_limit: args.ingress_limit,
            outbox: args.outbox,
            compression: args.compression,
            security: args.security,
            tls: TlsLayer { ca: args.tls_ca, certificate: args.tls_certificate, key: args.tls_key, crl: args.tls_crl },
            log: LogLayer { filter: args.log_filter, format: args.log_format },
        }
    }
}

/// Arguments of `bandwidth`.
#[derive(Debug, Args)]
pub struct BandwidthArgs {
    /// Bytes a second to send at most from now on; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    pub egress_limit: Option<u64>,
    /// Bytes a second to read at most from now on; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    pub ingress_limit: Option<u64>,
    /// Where the node is, and how to print.
    #[command(flatten)]
    pub query: QueryArgs,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The peer: its node id, 64 hexadecimal digits.
    #[arg(value_name = "NODEID")]
    pub peer: NodeId,
    /// Where the node is, and how to print.
    #[command(flatten)]
    pub query: QueryArgs,
}

/// Arguments of `devnet`.
#[derive(Debug, Args)]
pub struct DevnetArgs {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub nodes: u16,
    /// Transactions a second.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub rate: u32,
    /// How long the load lasts, e.g. 20s, 5m; until Ctrl-C if not given.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Where the nodes' directories are made; a temporary directory if not given.
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// What secures connections; for mtls a certificate authority is made, and a certificate for each node.
    #[arg(long, value_name = "PROTOCOL", default_value = "noise")]
    pub security: Security,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of what only asks a running node.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The data directory of the node.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Operations of `tx`.
#[derive(Debug, Subcommand)]
pub enum TxCommand {
    /// Set a key.
    Put {
        /// What all operations share.
        #[command(flatten)]
        tx: TxArgs,
        /// The value.
        #[arg(value_name = "VALUE")]
        value: String,
    },
    /// Remove a key.
    Delete {
        /// What all operations share.
        #[command(flatten)]
        tx: TxArgs,
    },
}

/// What all operations of `tx` share.
#[derive(Debug, Args)]
pub struct TxArgs {
    /// The data directory of the node.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The account key that signs; the node never sees it.
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// The version that the key must have; 0 if it must be absent. The present one if not given.
    #[arg(long, value_name = "N")]
    pub expected_version: Option<u64>,
    /// Wait until the transaction is in a block, and fail if it did not take effect.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration, requires = "wait")]
    pub timeout: Duration,
    /// Key and value are hexadecimal.
    #[arg(long)]
    pub hex: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The key.
    #[arg(value_name = "KEY")]
    pub key: String,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The data directory of the node.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The key is hexadecimal, and so is what is printed.
    #[arg(long)]
    pub hex: bool,
    /// Print JSON, with version, height and proof.
    #[arg(long)]
    pub json: bool,
    /// The key.
    #[arg(value_name = "KEY")]
    pub key: String,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Data directories of stopped nodes, of one network; may be given many times.
    #[arg(long = "dir", value_name = "DIR", required = true, num_args = 1..)]
    pub dirs: Vec<PathBuf>,
    /// A file with the ids of acknowledged transactions, one a line: each must be in the chain.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Operations of `key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key file and print the public key. A file that is there is never overwritten.
    New {
        /// The key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What the key is for.
        #[arg(long, value_name = "KIND")]
        kind: Kind,
    },
    /// Print the public key of a key file, whatever it is for.
    Show {
        /// The key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Operations of `ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a certificate authority: its key, its certificate, and a list that revokes nothing yet.
    Init {
        /// Its directory; created if need be. Nothing in there is overwritten.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What it is called.
        #[arg(long, value_name = "NAME", default_value = "consortium")]
        name: String,
    },
    /// Issue a certificate to a node, with a key of its own for TLS.
    Issue {
        /// The directory of the authority.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The node: its id, 64 hexadecimal digits, as `peerage key show` prints it.
        #[arg(long = "node", value_name = "NODEID")]
        node: NodeId,
        /// Where to write what the node needs: ca.pem, crl.pem, certificate.pem and tls.key. Of these only ca.pem and crl.pem
        /// are overwritten.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how many days it is valid.
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Revoke all certificates of nodes, and write the list of revocations anew. With no node the list is only renewed.
    Revoke {
        /// The directory of the authority.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// A node; may be given many times.
        #[arg(long = "node", value_name = "NODEID")]
        nodes: Vec<NodeId>,
    },
    /// What was issued, to whom, and what was revoked.
    Show {
        /// The directory of the authority.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Operations of `tls`.
#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Read certificates and revocations again now, in place of within ten seconds, and say what came of it.
    Reload {
        /// The data directory of the node.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Signs transactions.
    Account,
    /// Who a node is.
    Identity,
    /// Signs blocks.
    Producer,
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Account => Self::Account,
            Kind::Identity => Self::Identity,
            Kind::Producer => Self::Producer,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Account => "account",
            Self::Identity => "identity",
            Self::Producer => "producer",
        })
    }
}

/// A whole number with a unit: ms, s, m or h.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a whole number with a unit is expected: 500ms, 20s, 5m or 1h";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| EXPECTED)?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or("too long")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SCHEMA, VARIABLES, layer_of};
    use clap::{CommandFactory, error::ErrorKind};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_a_layer_of_settings_and_unsaid_ones_stay_unsaid() {
        let id = "ab".repeat(32);
        let line = format!("peerage run --dir d --listen 1.2.3.4:5 --seed {id}@a:1 --seed {id}@b:2 --log-format json");
        let Ok(Command::Run(args)) = parse(&line) else { panic!("valid") };
        let layer = Layer::from(args.settings);
        assert_eq!(layer.listen, Some(([1, 2, 3, 4], 5).into()));
        assert_eq!(layer.seeds.map(|seeds| seeds.len()), Some(2));
        assert_eq!((layer.log.format, layer.log.filter, layer.outbox), (Some(LogFormat::Json), None, None));
        let Ok(Command::Run(args)) = parse("peerage run --dir d --outbox false") else { panic!("valid") };
        assert_eq!(Layer::from(args.settings), Layer { outbox: Some(false), ..Layer::default() });
    }

    /// The template promises both.
    #[test]
    fn each_setting_of_the_file_has_its_flag_and_its_variable() {
        let id = "ab".repeat(32);
        let mut settings = 0;
        for (table, keys) in SCHEMA {
            for key in keys.iter().filter(|key| !["log", "tls"].contains(key)) {
                let (flag, value) = match *key {
                    "listen" | "advertise" => (*key, "1.2.3.4:5".to_owned()),
                    "seeds" => ("seed", format!("{id}@a:1")),
                    "reserved" => (*key, format!("{id}@a:1")),
                    "trusted" => (*key, id.clone()),
                    "allow" | "deny" => (*key, "192.0.2.0/24".to_owned()),
                    "acquire_timeout" | "idle_timeout" => (*key, "20s".to_owned()),
                    "outbox" | "compression" => (*key, "false".to_owned()),
                    "filter" => ("log", "debug".to_owned()),
                    "format" => ("log-format", "json".to_owned()),
                    "security" => (*key, "mtls".to_owned()),
                    "ca" => ("tls-ca", "a.pem".to_owned()),
                    "certificate" => ("tls-certificate", "b.pem".to_owned()),
                    "key" => ("tls-key", "c.pem".to_owned()),
                    "crl" => ("tls-crl", "d.pem".to_owned()),
                    _ => (*key, "40000000".to_owned()),
                };
                let line = format!("peerage run --dir d --{} {value}", flag.replace('_', "-"));
                let Ok(Command::Run(args)) = parse(&line) else { panic!("no flag for `{key}`: {line}") };
                let by_flag = Layer::from(args.settings);
                assert_ne!(by_flag, Layer::default(), "{line}");
                let in_table = if table.is_empty() { (*key).to_owned() } else { format!("{table}_{key}") };
                let variable = format!("PEERAGE_{}", in_table.to_uppercase());
                assert_eq!(layer_of([(variable.clone(), value)]).expect(&variable), by_flag);
                settings += 1;
            }
        }
        assert_eq!(settings, VARIABLES.len());
    }

    #[test]
    fn usage_errors_are_found_while_parsing_and_exit_with_2() {
        for (line, kind) in [
            ("peerage", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("peerage nonsense", ErrorKind::InvalidSubcommand),
            ("peerage run", ErrorKind::MissingRequiredArgument),
            ("peerage run --dir d --seed x", ErrorKind::ValueValidation),
            ("peerage devnet --nodes 0", ErrorKind::ValueValidation),
            ("peerage devnet --for 20", ErrorKind::ValueValidation),
            ("peerage init --dir d --genesis g --network n", ErrorKind::ArgumentConflict),
            ("peerage tx put --dir d --key-file k key", ErrorKind::MissingRequiredArgument),
            ("peerage key new f --kind king", ErrorKind::InvalidValue),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
        }
        let Ok(Command::Devnet(args)) = parse("peerage devnet --for 5m") else { panic!("valid") };
        assert_eq!((args.nodes, args.rate, args.duration), (5, 50, Some(Duration::from_secs(300))));
        let Ok(Command::Verify(args)) = parse("peerage verify --dir a --dir b c") else { panic!("valid") };
        assert_eq!(args.dirs.len(), 3);
    }

    #[test]
    fn help_is_a_command_as_the_readme_says() {
        for line in ["peerage help", "peerage help tx"] {
            assert_eq!(parse(line).expect_err(line).kind(), ErrorKind::DisplayHelp, "{line}");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_fits() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "s", "5", "5 s", "-5s", "5d", "1é", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
