//! `peerage init`: a data directory with everything a node needs. May be run again: what is there is kept.

use peerage_chain::proto::{genesis::GenesisFile, id::Producer};
use peerage_core::SecretRng;
use peerage_transport::{
    key_file::{self, KeyFileError, KeyKind},
    proto::keypair::Keypair,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use super::CliError;
use crate::{
    cli::InitArgs,
    clock,
    config::TEMPLATE,
    data_dir::DataDir,
    genesis::{load_genesis, write_genesis},
};

/// Largest chain id made up here: numbers of JSON are exact up to this (RFC 8259, 6).
const MAX_CHAIN_ID: u64 = (1 << 53) - 1;

pub(super) fn execute(args: &InitArgs, out: &mut impl Write) -> Result<(), CliError> {
    // Checked before anything is made.
    let given = args.genesis.as_deref().map(load_genesis).transpose()?;
    let dir = DataDir::create(&args.dir)?;
    let _lock = dir.lock()?;
    let identity = key(&dir.identity_key(), KeyKind::Identity)?;
    write_new(&dir.config(), TEMPLATE.as_bytes())?;
    let genesis = match (given, args.genesis.as_deref()) {
        (Some(given), Some(source)) => {
            write_new(&dir.genesis(), &fs::read(source)?)?;
            let kept = load_genesis(&dir.genesis())?;
            if kept.network_id() != given.network_id() {
                return Err(CliError::OtherGenesis(dir.genesis()));
            }
            kept
        }
        _ if dir.genesis().exists() => load_genesis(&dir.genesis())?,
        _ => {
            let producer = key(&dir.producer_key(), KeyKind::Producer)?;
            let random = SecretRng::from_os().bytes32();
            let number = random[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let (chain_id, producer) = ((number & MAX_CHAIN_ID).max(1), Producer(*producer.node_id().as_bytes()));
            let genesis = GenesisFile::solo(chain_id, &args.network, producer, clock::unix_millis());
            write_genesis(&dir.genesis(), &genesis)?
        }
    };
    writeln!(out, "data directory  {}", dir.path().display())?;
    writeln!(out, "node            {}", identity.node_id())?;
    writeln!(out, "network         {} ({})", genesis.network(), genesis.network_id())?;
    if dir.producer_key().exists() {
        writeln!(out, "producer        {}", key(&dir.producer_key(), KeyKind::Producer)?.node_id())?;
    }
    Ok(writeln!(out, "next            peerage run --dir {}", dir.path().display())?)
}

/// The key at `path`, made if there is none.
fn key(path: &Path, kind: KeyKind) -> Result<Keypair, KeyFileError> {
    let new = Keypair::generate(&mut SecretRng::from_os());
    match key_file::create(path, kind, &new) {
        Ok(()) => Ok(new),
        Err(KeyFileError::Exists(_)) => key_file::load(path, kind),
        Err(error) => Err(error),
    }
}

/// Writes a file unless there is one.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let written = OpenOptions::new().write(true).create_new(true).open(path);
    match written.and_then(|mut file: File| file.write_all(content).and_then(|()| file.sync_all())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}
