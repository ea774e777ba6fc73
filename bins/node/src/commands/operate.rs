//! What an operator says about peers: `peerage ban`, `unban`, `bans`, `allow`, `deny`, `reserve`, `release`, `trust`,
//! `distrust`, `disconnect`, `limits`.

use core::fmt::Display;
use std::{io::Write, path::Path};

use super::{CliError, print_json};
use crate::{
    cli::{LimitsCommand, ListCommand, OperateCommand, QueryArgs},
    clock,
    control::{BanState, ClientError, ControlClient, LimitChange, Limits, List, Lists, PeerOrder, Request, Response},
    data_dir::DataDir,
};

pub(super) async fn execute(command: OperateCommand, out: &mut impl Write) -> Result<(), CliError> {
    match command {
        OperateCommand::Ban(args) => {
            let order = PeerOrder::Ban { subject: args.subject, seconds: args.lasting.as_secs().max(1) };
            order_of(&args.node.dir, order).await
        }
        OperateCommand::Unban(args) => order_of(&args.node.dir, PeerOrder::Unban { subject: args.subject }).await,
        OperateCommand::Bans(args) => bans(&args, out).await,
        OperateCommand::Allow(command) => list(List::Allow, command, out).await,
        OperateCommand::Deny(command) => list(List::Deny, command, out).await,
        OperateCommand::Reserve(args) => {
            let kept = format!("reserved = [\"{}\"]", args.peer);
            order_of(&args.node.dir, PeerOrder::Reserve { peer: args.peer }).await?;
            until_it_stops(&args.node.dir, &kept, out)
        }
        OperateCommand::Release(args) => {
            order_of(&args.node.dir, PeerOrder::Release { peer: args.peer }).await?;
            until_it_stops(&args.node.dir, format_args!("nothing of {} in `reserved`", args.peer), out)
        }
        OperateCommand::Trust(args) => {
            order_of(&args.node.dir, PeerOrder::Trust { peer: args.peer }).await?;
            until_it_stops(&args.node.dir, format_args!("trusted = [\"{}\"]", args.peer), out)
        }
        OperateCommand::Distrust(args) => {
            order_of(&args.node.dir, PeerOrder::Distrust { peer: args.peer }).await?;
            until_it_stops(&args.node.dir, format_args!("no \"{}\" in `trusted`", args.peer), out)
        }
        OperateCommand::Disconnect(args) => order_of(&args.node.dir, PeerOrder::Disconnect { peer: args.peer }).await,
        OperateCommand::Limits(LimitsCommand::Show(query)) => limits(&query, LimitChange::default(), out).await,
        OperateCommand::Limits(LimitsCommand::Set(args)) => limits(&args.query, args.change, out).await,
    }
}

async fn ask(dir: &Path, request: Request) -> Result<Response, CliError> {
    Ok(ControlClient::connect(&DataDir::open(dir)?).await?.call(request).await?)
}

async fn order_of(dir: &Path, order: PeerOrder) -> Result<(), CliError> {
    match ask(dir, Request::Order(order)).await? {
        Response::Done => Ok(()),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// What a restart forgets, and what to do about it.
pub(super) fn until_it_stops(dir: &Path, kept: impl Display, out: &mut impl Write) -> Result<(), CliError> {
    let file = dir.join("config.toml");
    Ok(writeln!(out, "done, until the node stops; to keep it, see that {} has: {kept}", file.display())?)
}

async fn bans(query: &QueryArgs, out: &mut impl Write) -> Result<(), CliError> {
    let Response::Bans(bans) = ask(&query.dir, Request::Bans).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if query.json {
        return print_json(&bans, out);
    }
    let now = clock::unix_millis();
    for BanState { subject, until_unix_ms, times, by_hand } in bans {
        let minutes = until_unix_ms.since(now).as_secs().div_ceil(60);
        let by_whom = if by_hand { ", by hand" } else { "" };
        writeln!(out, "{subject:<64} {minutes:>8} min  banned {times} times{by_whom}")?;
    }
    Ok(())
}

async fn list(list: List, command: ListCommand, out: &mut impl Write) -> Result<(), CliError> {
    let (dir, order, kept) = match command {
        ListCommand::List(query) => return show(list, &query, out).await,
        ListCommand::Add(args) => {
            let kept = format!("\"{}\" in `{}`", args.rule, list.label());
            (args.node.dir, PeerOrder::Add { list, rule: args.rule }, kept)
        }
        ListCommand::Remove(args) => {
            let kept = format!("no \"{}\" in `{}`", args.rule, list.label());
            (args.node.dir, PeerOrder::Remove { list, rule: args.rule }, kept)
        }
    };
    order_of(&dir, order).await?;
    until_it_stops(&dir, kept, out)
}

async fn show(list: List, query: &QueryArgs, out: &mut impl Write) -> Result<(), CliError> {
    let Response::Lists(Lists { allow, deny, .. }) = ask(&query.dir, Request::Lists).await? else {
        return Err(ClientError::Unexpected.into());
    };
    let rules = match list {
        List::Allow => allow,
        List::Deny => deny,
    };
    if query.json {
        return print_json(&rules.iter().map(ToString::to_string).collect::<Vec<_>>(), out);
    }
    rules.iter().try_for_each(|rule| writeln!(out, "{rule}"))?;
    Ok(())
}

async fn limits(query: &QueryArgs, change: LimitChange, out: &mut impl Write) -> Result<(), CliError> {
    let Response::Limits(limits) = ask(&query.dir, Request::Limits(change)).await? else {
        return Err(ClientError::Unexpected.into());
    };
    if query.json {
        return print_json(&limits, out);
    }
    let Limits { target_peers, max_peers, outbound_per_group, .. } = limits;
    writeln!(
        out,
        "target_peers        {target_peers:>10}  connections of this node's choice, {} of them there",
        limits.outbound
    )?;
    let places = max_peers.saturating_sub(target_peers);
    writeln!(
        out,
        "max_peers           {max_peers:>10}  {} came by themselves, for whom are {places} places",
        limits.inbound
    )?;
    writeln!(out, "outbound_per_group  {outbound_per_group:>10}")?;
    writeln!(out, "acquire_timeout     {:>7} ms", limits.acquire_timeout_ms)?;
    writeln!(out, "idle_timeout        {:>7} ms", limits.idle_timeout_ms)?;
    writeln!(
        out,
        "budget_bytes        {:>10}  {} taken; fixed at the start",
        limits.budget_bytes, limits.resident_bytes
    )?;
    writeln!(out, "connections         {:>10}  handshakes included", limits.links)?;
    let LimitChange { target_peers, max_peers, outbound_per_group, acquire_timeout_ms, idle_timeout_ms } = change;
    let named = [("target_peers", target_peers), ("max_peers", max_peers), ("outbound_per_group", outbound_per_group)];
    let numbers = named.into_iter().filter_map(|(key, number)| number.map(|number| format!("{key} = {number}")));
    let waits = [("acquire_timeout", acquire_timeout_ms), ("idle_timeout", idle_timeout_ms)];
    let waits = waits.into_iter().filter_map(|(key, wait)| wait.map(|wait| format!("{key} = \"{wait}ms\"")));
    let kept: Vec<String> = numbers.chain(waits).collect();
    if !kept.is_empty() {
        until_it_stops(&query.dir, kept.join(", "), out)?;
    }
    Ok(())
}
