//! `peerage why`.

use std::io::Write;

use super::{CliError, print_json};
use crate::{
    cli::WhyArgs,
    clock,
    control::{ClientError, ControlClient, NotDialled, Request, Response, Story},
    data_dir::DataDir,
};

pub(super) async fn execute(args: &WhyArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut client = ControlClient::connect(&DataDir::open(&args.query.dir)?).await?;
    let Response::Why(story) = client.call(Request::Why { peer: args.peer }).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if args.query.json {
        return print_json(&story, out);
    }
    let Story { happenings, not_dialled } = story;
    if happenings.is_empty() {
        writeln!(out, "this node has not met {} since it started, or has forgotten it", args.peer)?;
    }
    let now = clock::unix_millis().0;
    for happening in happenings {
        let ago = now.saturating_sub(happening.unix_millis) / 1000;
        let times = if happening.times > 1 { format!(" ({} times)", happening.times) } else { String::new() };
        writeln!(out, "{ago:>8} s ago  {}{times}", happening.words)?;
    }
    match not_dialled {
        Some(NotDialled { reason, words }) => writeln!(out, "now: not dialled, because `{reason}`: {words}")?,
        None => writeln!(out, "now: nothing is in the way of a dial")?,
    }
    Ok(())
}
