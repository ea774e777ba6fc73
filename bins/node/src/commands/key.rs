//! `peerage key`: key files.

use peerage_core::SecretRng;
use peerage_transport::{key_file, proto::keypair::Keypair};
use std::io::Write;

use super::CliError;
use crate::cli::{KeyArgs, KeyCommand};

pub(super) fn execute(command: &KeyCommand, out: &mut impl Write) -> Result<(), CliError> {
    let keypair = match command {
        KeyCommand::New(KeyArgs { file, kind }) => {
            let keypair = Keypair::generate(&mut SecretRng::from_os());
            key_file::create(file, (*kind).into(), &keypair)?;
            keypair
        }
        KeyCommand::Show(KeyArgs { file, kind }) => key_file::load(file, (*kind).into())?,
    };
    Ok(writeln!(out, "{}", keypair.node_id())?)
}
