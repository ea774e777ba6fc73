//! Everything that can end a command, and the exit code of each.

use core::time::Duration;
use peerage_chain::proto::{id::TxId, transaction::TransactionError};
use peerage_transport::{driver::tls::TlsError, key_file::KeyFileError};
use std::{io, path::PathBuf, process::ExitCode};
use thiserror::Error;

use crate::{
    ca::CaError,
    config::ConfigError,
    control::{BindError, ClientError, DropCause, Inclusion, LineError, Outcome},
    data_dir::DataDirError,
    devnet::DevnetError,
    genesis::GenesisFileError,
    hex::ParseHexError,
    runtime::{PeerFileError, RunError},
    toml_file::TomlError,
};

/// Something did not work while running.
const RUNTIME: u8 = 1;
/// The command line makes no sense; what clap uses, too.
const USAGE: u8 = 2;
/// Input or output failed (sysexits.h, EX_IOERR).
const IO: u8 = 74;
/// Not permitted (sysexits.h, EX_NOPERM).
const PERMISSION: u8 = 77;
/// Something is misconfigured (sysexits.h, EX_CONFIG).
const CONFIG: u8 = 78;

/// Why a command failed. Its text says what to do next.
#[derive(Debug, Error)]
pub enum CliError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    /// Another genesis is there already.
    #[error("{} is another genesis than the one given: use another directory for another network", .0.display())]
    OtherGenesis(PathBuf),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The control socket of a node that starts.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The running node.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was to be signed cannot be a transaction.
    #[error("this cannot be a transaction: {0}")]
    Transaction(#[from] TransactionError),
    /// A key or value that should be hexadecimal.
    #[error("with --hex, keys and values are hexadecimal: {0}")]
    Hex(#[from] ParseHexError),
    /// The key holds nothing.
    #[error("the key is absent")]
    Absent,
    /// The transaction is in a block but changed nothing.
    #[error("transaction {id} is in block {} but changed nothing: {}", .inclusion.height, outcome(&.inclusion.outcome))]
    NotApplied {
        /// Which.
        id: TxId,
        /// Where, and why not.
        inclusion: Inclusion,
    },
    /// The node gave the transaction up: it will be in no block.
    #[error("transaction {id} was dropped: {}", dropped(.cause.as_ref()))]
    Dropped {
        /// Which.
        id: TxId,
        /// Why, unless the node said it too fast to be heard.
        cause: Option<DropCause>,
    },
    /// The transaction was not in a block in time.
    #[error("transaction {id} is in no block after {} s; it may still come: see `peerage status`", .waited.as_secs())]
    NotCommitted {
        /// Which.
        id: TxId,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The node, at its start or while it ran.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The devnet did not come up.
    #[error(transparent)]
    Devnet(#[from] DevnetError),
    /// A file or the output.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn dropped(cause: Option<&DropCause>) -> &'static str {
    match cause {
        Some(DropCause::Expired) => {
            "it was in no block while it was valid; see with `peerage status` whether the chain grows, and send it again"
        }
        Some(DropCause::Superseded) => {
            "another transaction of this account with the same nonce is in the chain; if both are wanted, send it again"
        }
        Some(DropCause::Evicted) => {
            "it waited for an earlier one of its account and others needed the room; send that first"
        }
        None => "the node's log says why; send it again if it is still wanted",
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Applied => "it was applied".to_owned(),
        Outcome::StaleVersion { actual, .. } => {
            format!("the key has version {actual} by now; look at it with `peerage get` and try again")
        }
    }
}

impl CliError {
    /// What the process exits with: 1 at run time, 2 for usage, 74 for I/O, 77 for permissions, 78 for configuration.
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(ConfigError::File(error)) => of_toml(error),
            Self::Genesis(error) | Self::Run(RunError::Genesis(error)) => of_genesis(error),
            Self::Config(_) | Self::OtherGenesis(_) | Self::Run(RunError::Chain(_)) => CONFIG,
            Self::DataDir(error) | Self::Client(ClientError::DataDir(error)) => of_data_dir(error),
            Self::Bind(error) | Self::Run(RunError::Control(error)) => match error {
                BindError::DataDir(error) => of_data_dir(error),
                BindError::Io { reason, .. } => of_io(reason),
            },
            Self::KeyFile(error) | Self::Run(RunError::Key(error)) => of_key(error),
            Self::Ca(error) => of_ca(error),
            Self::Run(RunError::Tls(error)) => of_tls(error),
            Self::Run(RunError::Listen { reason, .. } | RunError::Threads(reason)) => of_io(reason),
            Self::Run(RunError::Peers(PeerFileError::Io { reason, .. })) => of_io(reason),
            Self::Run(RunError::Peers(PeerFileError::Later { .. })) => IO, // as a store of a later version
            Self::Run(RunError::Store(_) | RunError::StoreFailed(_)) => IO,
            Self::Client(ClientError::Line(LineError::Io(reason))) | Self::Io(reason) => of_io(reason),
            Self::Devnet(_)
            | Self::Client(_)
            | Self::Absent
            | Self::NotApplied { .. }
            | Self::Dropped { .. }
            | Self::NotCommitted { .. } => RUNTIME,
            Self::Transaction(_) | Self::Hex(_) => USAGE,
        }
    }

    /// The same for `main`.
    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }
}

fn of_toml(error: &TomlError) -> u8 {
    match error {
        TomlError::Read { reason, .. } => of_io(reason),
        _ => CONFIG,
    }
}

fn of_genesis(error: &GenesisFileError) -> u8 {
    match error {
        GenesisFileError::File(error) => of_toml(error),
        GenesisFileError::Write { reason, .. } => of_io(reason),
        _ => CONFIG,
    }
}

fn of_key(error: &KeyFileError) -> u8 {
    match error {
        KeyFileError::Io { reason, .. } => of_io(reason),
        KeyFileError::TooOpen { .. } => PERMISSION,
        KeyFileError::Exists(_) => USAGE,
        _ => CONFIG,
    }
}

fn of_tls(error: &TlsError) -> u8 {
    match error {
        TlsError::Io { reason, .. } => of_io(reason),
        TlsError::TooOpen { .. } => PERMISSION,
        _ => CONFIG,
    }
}

fn of_ca(error: &CaError) -> u8 {
    match error {
        CaError::Io { reason, .. } => of_io(reason),
        CaError::DataDir(error) => of_data_dir(error),
        CaError::TooOpen { .. } => PERMISSION,
        CaError::Exists(_) | CaError::Unknown { .. } | CaError::Name => USAGE,
        CaError::Damaged(_) => CONFIG,
        CaError::Sign(_) => RUNTIME,
    }
}

fn of_io(reason: &io::Error) -> u8 {
    if reason.kind() == io::ErrorKind::PermissionDenied { PERMISSION } else { IO }
}

fn of_data_dir(error: &DataDirError) -> u8 {
    match error {
        DataDirError::Missing(_) | DataDirError::SocketPathTooLong(_) => CONFIG,
        DataDirError::TooOpen { .. } => PERMISSION,
        DataDirError::InUse(_) => RUNTIME,
        DataDirError::Io { reason, .. } => of_io(reason),
    }
}
