//! `peerage tls`.

use std::io::Write;

use super::CliError;
use crate::{
    cli::TlsCommand,
    control::{ClientError, ControlClient, Request, Response},
    data_dir::DataDir,
};

pub(super) async fn execute(command: &TlsCommand, out: &mut impl Write) -> Result<(), CliError> {
    let TlsCommand::Reload { dir } = command;
    let mut client = ControlClient::connect(&DataDir::open(dir)?).await?;
    let Response::Reloaded { ended } = client.call(Request::ReloadTls).await? else {
        return Err(ClientError::Unexpected.into());
    };
    let connections = if ended == 1 { "connection ends" } else { "connections end" };
    Ok(writeln!(out, "certificates were read again; {ended} {connections}")?)
}
