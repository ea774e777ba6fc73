//! `peerage get`.

use std::io::Write;

use super::{CliError, bytes_of, print_json};
use crate::{
    cli::GetArgs,
    control::{ClientError, ControlClient, Request, Response},
    data_dir::DataDir,
    hex,
};

pub(super) async fn execute(args: &GetArgs, out: &mut impl Write) -> Result<(), CliError> {
    let key = bytes_of(&args.key, args.hex)?;
    let mut client = ControlClient::connect(&DataDir::open(&args.dir)?).await?;
    let Response::Value(value) = client.call(Request::Get { key }).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if args.json {
        return print_json(&value, out);
    }
    let value = value.value.ok_or(CliError::Absent)?;
    out.write_all(if args.hex { hex::encode(&value).into_bytes() } else { value }.as_slice())?;
    Ok(writeln!(out)?)
}
