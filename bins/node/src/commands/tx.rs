//! `peerage tx`: builds and signs a transaction here, and gives it to a node. The node never sees the key.

use core::time::Duration;
use peerage_chain::proto::{
    id::{Account, TxId},
    transaction::{Op, Transaction, TransactionBody},
};
use peerage_transport::key_file::{self, KeyKind};
use std::io::Write;

use super::{CliError, bytes_of, print_json};
use crate::{
    cli::{TxArgs, TxCommand},
    control::{ClientError, ControlClient, Event, EventStream, Inclusion, Outcome, Request, Response, TxState},
    data_dir::DataDir,
};

/// For how many blocks a transaction stays valid. 600: our guess, five minutes at two blocks a second.
const VALID_FOR_BLOCKS: u64 = 600;

pub(super) async fn execute(command: TxCommand, out: &mut impl Write) -> Result<(), CliError> {
    let (args, value) = match command {
        TxCommand::Put { tx, value } => (tx, Some(value)),
        TxCommand::Delete { tx } => (tx, None),
    };
    let key = bytes_of(&args.key, args.hex)?;
    let value = value.map(|value| bytes_of(&value, args.hex)).transpose()?;
    let keypair = key_file::load(&args.key_file, KeyKind::Account)?;
    let dir = DataDir::open(&args.dir)?;
    let mut client = ControlClient::connect(&dir).await?;
    let account = Account(*keypair.node_id().as_bytes());
    let Response::Account(state) = client.call(Request::Account { pubkey: account }).await? else {
        return Err(ClientError::Unexpected.into());
    };
    let expected_version = match args.expected_version {
        Some(version) => version,
        None => match client.call(Request::Get { key: key.clone() }).await? {
            Response::Value(value) => value.version,
            _ => return Err(ClientError::Unexpected.into()),
        },
    };
    let op = match value {
        Some(value) => Op::Put { key, value, expected_version },
        None => Op::Delete { key, expected_version },
    };
    let body = TransactionBody {
        chain_id: state.chain_id,
        account,
        nonce: state.next_nonce,
        valid_until: state.height.saturating_add(VALID_FOR_BLOCKS),
        ops: vec![op],
    };
    let tx = Transaction::sign(body, &keypair)?.encode()?;
    // Watching begins before the node has the transaction, so that its block cannot be missed.
    let events = if args.wait { Some(ControlClient::connect(&dir).await?.watch().await?) } else { None };
    let Response::Submitted { id } = client.call(Request::SubmitTx { tx: tx.bytes.to_vec() }).await? else {
        return Err(ClientError::Unexpected.into());
    };
    let state = match events {
        Some(events) => TxState::Committed(wait(&mut client, events, id, args.timeout).await?),
        None => TxState::Pending,
    };
    report(&args, id, state, out)
}

/// Waits until a transaction is in a block, or will never be.
async fn wait(
    client: &mut ControlClient,
    mut events: EventStream,
    id: TxId,
    timeout: Duration,
) -> Result<Inclusion, CliError> {
    let found = async {
        loop {
            let cause = match events.next().await? {
                None => return Err(ClientError::Closed.into()),
                Some(Event::Committed { ids, .. }) if ids.contains(&id) => None,
                Some(Event::Dropped { id: dropped, cause }) if dropped == id => Some(cause),
                Some(Event::Missed { .. }) => None,
                Some(_) => continue,
            };
            match client.call(Request::TxStatus { id }).await? {
                Response::TxStatus(TxState::Committed(inclusion)) => return Ok(inclusion),
                Response::TxStatus(TxState::Pending) => {} // events were missed, but not those
                // The node had it, for it acknowledged it.
                Response::TxStatus(TxState::Unknown) => return Err(CliError::Dropped { id, cause }),
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    };
    let found = tokio::time::timeout(timeout, found).await;
    found.map_err(|_| CliError::NotCommitted { id, waited: timeout })?
}

fn report(args: &TxArgs, id: TxId, state: TxState, out: &mut impl Write) -> Result<(), CliError> {
    if args.json {
        #[derive(serde::Serialize)]
        struct Sent {
            #[serde(with = "crate::hex::text")]
            id: TxId,
            #[serde(flatten)]
            state: TxState,
        }
        print_json(&Sent { id, state }, out)?;
    } else {
        writeln!(out, "{id}")?;
    }
    match state {
        TxState::Committed(inclusion) if inclusion.outcome != Outcome::Applied => {
            Err(CliError::NotApplied { id, inclusion })
        }
        _ => Ok(()),
    }
}
