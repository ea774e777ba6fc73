//! `peerage ca`: a certificate authority in a directory.

use std::io::Write;

use super::{CliError, print_json};
use crate::{
    ca::{Authority, Issued},
    cli::CaCommand,
    clock,
};

pub(super) fn execute(command: &CaCommand, out: &mut impl Write) -> Result<(), CliError> {
    let now = clock::unix_millis();
    match command {
        CaCommand::Init { dir, name } => {
            Authority::init(dir, name, now)?;
            writeln!(out, "{}", dir.join("ca.pem").display())?;
        }
        CaCommand::Issue { dir, node, out: place, days } => {
            let issued = Authority::open(dir)?.issue(*node, place, *days, now)?;
            writeln!(out, "{}", line(&issued, now.0 / 1000))?;
        }
        CaCommand::Revoke { dir, nodes } => {
            let revoked = Authority::open(dir)?.revoke(nodes, now)?;
            writeln!(out, "{revoked} certificates revoked; give {} to all nodes", dir.join("crl.pem").display())?;
        }
        CaCommand::Show { dir, json } => {
            let authority = Authority::open(dir)?;
            if *json {
                return print_json(&authority.issued(), out);
            }
            for issued in authority.issued() {
                writeln!(out, "{}", line(issued, now.0 / 1000))?;
            }
        }
    }
    Ok(())
}

fn line(issued: &Issued, now: u64) -> String {
    let Issued { serial, node, not_after, revoked } = issued;
    let standing = match revoked {
        Some(_) => "revoked".to_owned(),
        None if *not_after < now => "expired".to_owned(),
        None => format!("valid for {} days", (not_after - now) / 86_400),
    };
    format!("{serial}  {node}  {standing}")
}
