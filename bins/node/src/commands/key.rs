//! `peerage key`: key files.

use peerage_core::SecretRng;
use peerage_transport::{key_file, proto::keypair::Keypair};
use std::io::Write;

use super::CliError;
use crate::cli::KeyCommand;

pub(super) fn execute(command: &KeyCommand, out: &mut impl Write) -> Result<(), CliError> {
    let keypair = match command {
        KeyCommand::New { file, kind } => {
            let keypair = Keypair::generate(&mut SecretRng::from_os());
            key_file::create(file, (*kind).into(), &keypair)?;
            keypair
        }
        KeyCommand::Show { file } => key_file::load_any(file)?.1,
    };
    Ok(writeln!(out, "{}", keypair.node_id())?)
}
