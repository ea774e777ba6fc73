//! `peerage status`.

use std::io::Write;

use super::{CliError, print_json};
use crate::{
    cli::QueryArgs,
    control::{ClientError, ControlClient, PoolState, Request, Response},
    data_dir::DataDir,
};

pub(super) async fn execute(args: &QueryArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut client = ControlClient::connect(&DataDir::open(&args.dir)?).await?;
    let Response::Status(status) = client.call(Request::Status).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if args.json {
        return print_json(&status, out);
    }
    writeln!(out, "node      {}", status.node_id)?;
    writeln!(out, "network   {} ({}), chain {}", status.network, status.network_id, status.chain_id)?;
    writeln!(out, "role      {}", if status.producer { "producer" } else { "follower" })?;
    writeln!(out, "listen    {}", status.listen)?;
    writeln!(out, "height    {}", status.height)?;
    writeln!(out, "head      {}", status.head)?;
    writeln!(out, "state     {}", status.state_root)?;
    writeln!(out, "peers     {}", status.peers)?;
    writeln!(out, "mempool   {} transactions, {} bytes", status.mempool_txs, status.mempool_bytes)?;
    writeln!(out, "outbox    {} transactions", status.outbox_txs)?;
    writeln!(out, "memory    {} of {} bytes", status.resident_bytes, status.budget_bytes)?;
    for PoolState { pool, used, limit } in status.pools.iter().filter(|pool| pool.is_filling()) {
        writeln!(out, "pool      {used} of {limit} bytes of {pool}")?;
    }
    Ok(writeln!(out, "uptime    {} s", status.uptime_ms / 1000)?)
}
