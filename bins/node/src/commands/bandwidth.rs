//! `peerage bandwidth`.

use core::num::NonZeroU64;
use std::io::Write;

use super::{CliError, operate::until_it_stops, print_json};
use crate::{
    cli::BandwidthArgs,
    control::{ClientError, ControlClient, Request, Response},
    data_dir::DataDir,
};

pub(super) async fn execute(args: &BandwidthArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut client = ControlClient::connect(&DataDir::open(&args.query.dir)?).await?;
    let (egress, ingress) = (args.egress_limit, args.ingress_limit);
    let Response::Bandwidth(traffic) = client.call(Request::Bandwidth { egress, ingress }).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if args.query.json {
        return print_json(&traffic, out);
    }
    writeln!(out, "sent      {} bytes, {}", traffic.sent_bytes, limit(traffic.egress_limit))?;
    writeln!(out, "received  {} bytes, {}", traffic.received_bytes, limit(traffic.ingress_limit))?;
    for (class, bytes) in traffic.granted_bytes.iter().filter(|(_, bytes)| **bytes > 0) {
        writeln!(out, "granted   {bytes} bytes of class {class}")?;
    }
    for (class, count) in traffic.waiting_to_write.iter().filter(|(_, count)| **count > 0) {
        writeln!(out, "waiting   {count} connections with class {class}")?;
    }
    if traffic.waiting_to_read > 0 || traffic.held_credit_bytes > 0 {
        let (count, held) = (traffic.waiting_to_read, traffic.held_credit_bytes);
        writeln!(out, "reading   {count} connections wait, {held} bytes of credit are held back")?;
    }
    let named = [("egress_limit", egress), ("ingress_limit", ingress)];
    let kept: Vec<String> =
        named.into_iter().filter_map(|(key, limit)| limit.map(|limit| format!("{key} = {limit}"))).collect();
    if !kept.is_empty() {
        until_it_stops(&args.query.dir, kept.join(", "), out)?;
    }
    Ok(())
}

fn limit(limit: Option<NonZeroU64>) -> String {
    limit.map_or_else(|| "no limit".into(), |limit| format!("limit {limit} bytes a second"))
}
