//! `peerage peers`.

use std::io::Write;

use super::{CliError, print_json};
use crate::{
    cli::QueryArgs,
    control::{ClientError, ControlClient, Request, Response},
    data_dir::DataDir,
};

pub(super) async fn execute(args: &QueryArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut client = ControlClient::connect(&DataDir::open(&args.dir)?).await?;
    let Response::Peers(peers) = client.call(Request::Peers).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if args.json {
        return print_json(&peers, out);
    }
    for peer in peers {
        let direction = if peer.outbound { "out" } else { "in" };
        let (standing, owed) = (peer.standing, peer.owed_bytes);
        let rtt = peer.rtt_micros.map_or_else(|| "-".to_owned(), |micros| format!("{:.1} ms", micros as f64 / 1000.0));
        let clock = peer.timing.map_or_else(|| "-".to_owned(), |timing| format!("{:+} ms", timing.clock_offset_ms));
        let height = peer.head.map_or_else(|| "-".to_owned(), |head| head.height.to_string());
        let since = peer.connected_ms / 1000;
        writeln!(
            out,
            "{} {direction:3} {standing:<8} {:<22} {rtt:>10} {since:>8} s {owed:>9} B owed {:>3} points  clock {clock:>9}  height {height}",
            peer.id, peer.addr, peer.points
        )?;
    }
    Ok(())
}
