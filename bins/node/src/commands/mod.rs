//! What the commands do that need no node in this process.

mod bandwidth;
pub mod devnet;
mod error;
mod get;
mod init;
mod key;
mod operate;
mod peers;
pub mod run;
mod status;
#[cfg(test)]
mod tests;
mod tx;
pub mod verify;
mod why;

use std::io::Write;

pub use error::CliError;

use crate::{cli::ClientCommand, hex};

/// Does what a command says; results go to `out`.
///
/// # Errors
/// [`CliError`], which knows the exit code.
pub async fn execute(command: ClientCommand, out: &mut impl Write) -> Result<(), CliError> {
    match command {
        ClientCommand::Init(args) => init::execute(&args, out),
        ClientCommand::Status(args) => status::execute(&args, out).await,
        ClientCommand::Peers(args) => peers::execute(&args, out).await,
        ClientCommand::Bandwidth(args) => bandwidth::execute(&args, out).await,
        ClientCommand::Why(args) => why::execute(&args, out).await,
        ClientCommand::Operate(command) => operate::execute(command, out).await,
        ClientCommand::Tx(command) => tx::execute(command, out).await,
        ClientCommand::Get(args) => get::execute(&args, out).await,
        ClientCommand::Key(command) => key::execute(&command, out),
    }
}

/// The bytes of a key or value on the command line.
fn bytes_of(text: &str, is_hex: bool) -> Result<Vec<u8>, CliError> {
    if is_hex { Ok(hex::decode(text)?) } else { Ok(text.as_bytes().to_vec()) }
}

fn print_json(value: &impl serde::Serialize, out: &mut impl Write) -> Result<(), CliError> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}
