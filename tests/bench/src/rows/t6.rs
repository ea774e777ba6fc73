//! T6: how long an urgent message takes while bulk saturates every connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::Plan;
use crate::{
    measure::{on_worker, quantile, runtime},
    node::{Do, Node, PIECE, Saw, VOTE, filled, nanos, stamped},
    peers::{libp2p, stream},
    report::{Figure, Goal, Printer},
};

const LEN: usize = 200;
const CHUNK: usize = 64 << 10;
/// Neighbours, each with bulk of its own.
const PEERS: usize = 4;
/// Urgent messages a round, one after each pause, to the neighbours in turn.
const VOTES: usize = 1000;
const PAUSE: Duration = Duration::from_millis(3);
/// Bulk flows for so long before the first.
const RAMP: Duration = Duration::from_millis(500);
/// What may lie before an urgent message by design: a record of 16 KiB, and what the kernel may hold unsent.
const BEFORE: f64 = ((16 + 32) << 10) as f64;
/// Half of what may wait for a peer.
const WINDOW: u64 = 32;
const EVERY: u64 = 4;

/// The p99 in microseconds, and the bytes a second of bulk on all connections together meanwhile.
struct Seen {
    p99: f64,
    bulk: f64,
}

async fn ours(loaded: bool) -> Seen {
    let heartbeat = Duration::from_secs(30);
    let mut peers = Vec::new();
    for number in 0..PEERS {
        peers.push(Node::start(10 + number as u64, Vec::new(), heartbeat).await);
    }
    let mut center = Node::start(1, peers.iter().map(Node::known).collect(), heartbeat).await;
    for _ in 0..PEERS {
        center.see_up().await;
    }
    for peer in &mut peers {
        peer.see_up().await;
        peer.order(Do::Expect { every: EVERY, count: u64::MAX }).await;
    }
    if loaded {
        for peer in &peers {
            let message = filled(PIECE, CHUNK);
            center.order(Do::Stream { to: peer.id, message, count: u64::MAX, window: WINDOW }).await;
        }
        tokio::time::sleep(RAMP).await;
    }
    let (votes, mut seen) = mpsc::unbounded_channel();
    let ids: Vec<_> = peers.iter().map(|peer| peer.id).collect();
    let readers: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            let votes = votes.clone();
            tokio::spawn(async move {
                // All of it: a stack stops with its last handle.
                let mut peer = peer;
                while let Some(saw) = peer.saw.recv().await {
                    if let Saw::Vote(nanos) = saw {
                        // The measurement may be over.
                        let _unheard = votes.send(nanos);
                    }
                }
            })
        })
        .collect();
    let handle = center.handle.clone();
    let pieces = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&pieces);
    let counting = tokio::spawn(async move {
        while let Some(saw) = center.saw.recv().await {
            if let Saw::Acked(count) = saw {
                counted.fetch_add(count, Relaxed);
            }
        }
    });
    let (start, before) = (Instant::now(), pieces.load(Relaxed));
    for vote in 0..VOTES {
        tokio::time::sleep(PAUSE).await;
        crate::node::order(&handle, Do::Send(ids[vote % PEERS], stamped(VOTE, LEN))).await;
    }
    let mut times = Vec::new();
    while times.len() < VOTES {
        times.push(seen.recv().await.expect("all arrive") as f64 / 1e3);
    }
    let bulk = (pieces.load(Relaxed) - before) as f64 * CHUNK as f64 / start.elapsed().as_secs_f64();
    crate::node::order(&handle, Do::Stop).await;
    handle.shutdown().await;
    drop(handle);
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    counting.await.expect("no panic");
    Seen { p99: quantile(&times, 0.99), bulk }
}

async fn libp2p(loaded: bool) -> Seen {
    let (mut peers, mut addrs) = (Vec::new(), Vec::new());
    for _ in 0..PEERS {
        let (peer, addr) = libp2p::listen().await;
        peers.push(peer);
        addrs.push(addr);
    }
    let mut center = libp2p::dial(&addrs).await;
    let (votes, mut seen) = mpsc::unbounded_channel();
    let bulk = Arc::new(AtomicU64::new(0));
    let (mut writers, mut tasks) = (Vec::new(), Vec::new());
    for peer in &mut peers {
        let (writer, reader) = libp2p::stream(&mut center, peer).await;
        writers.push(writer);
        tasks.push(tokio::spawn(stream::read_stamped(reader, LEN, nanos, votes.clone())));
        // Both sides negotiate a stream when its first bytes flow.
        stream::send_stamped(writers.last_mut().expect("just added"), LEN, nanos()).await;
        seen.recv().await.expect("it arrives");
        if loaded {
            let (writer, reader) = libp2p::stream(&mut center, peer).await;
            tasks.push(tokio::spawn(stream::flood(writer, CHUNK)));
            tasks.push(tokio::spawn(stream::drain(reader, CHUNK, Arc::clone(&bulk))));
        }
    }
    tokio::time::sleep(if loaded { RAMP } else { Duration::ZERO }).await;
    let (start, before) = (Instant::now(), bulk.load(Relaxed));
    for vote in 0..VOTES {
        tokio::time::sleep(PAUSE).await;
        stream::send_stamped(&mut writers[vote % PEERS], LEN, nanos()).await;
    }
    let mut times = Vec::new();
    while times.len() < VOTES {
        times.push(seen.recv().await.expect("all arrive") as f64 / 1e3);
    }
    let bulk = (bulk.load(Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Seen { p99: quantile(&times, 0.99), bulk }
}

pub(crate) fn run(plan: &Plan, printer: Printer) {
    if plan.ours {
        return (0..plan.runs).for_each(|_| _ = on_worker(&runtime(), ours(true)));
    }
    let mut rounds: [Vec<Seen>; 4] = Default::default();
    for round in 0..=plan.runs {
        // A runtime each, so that nothing of the one before is left.
        let all = [
            on_worker(&runtime(), ours(false)),
            on_worker(&runtime(), ours(true)),
            on_worker(&runtime(), libp2p(false)),
            on_worker(&runtime(), libp2p(true)),
        ];
        if round > 0 {
            rounds.iter_mut().zip(all).for_each(|(of, one)| of.push(one));
        }
    }
    let [idle, loaded, libp2p_idle, libp2p_loaded] = &rounds;
    let p99 = |of: &[Seen]| of.iter().map(|seen| seen.p99).collect::<Vec<_>>();
    let allowed = idle.iter().zip(loaded).map(|(idle, loaded)| {
        let each = loaded.bulk / PEERS as f64;
        1.5 * idle.p99 + BEFORE / each * 1e6
    });
    let figure = |what: &str, unit, ours, peer, peer_name: &str, goal| {
        printer.figure(&Figure { row: "T6", what: what.into(), unit, ours, peer, peer_name: peer_name.into(), goal });
    };
    let what = "p99 of 200 B Consensus under Bulk on 4 connections";
    let bound = "1.5 x its p99 without load, and 48 KiB at the rate of a connection";
    figure(what, "us", p99(loaded), allowed.collect(), bound, Goal::AtMost(1.0));
    figure(what, "us", p99(loaded), p99(libp2p_loaded), libp2p::NAME, Goal::AtMost(0.05));
    figure("p99 of the same without load", "us", p99(idle), p99(libp2p_idle), libp2p::NAME, Goal::None);
    let bulk = |of: &[Seen]| of.iter().map(|seen| seen.bulk / f64::from(1 << 20)).collect::<Vec<_>>();
    figure("Bulk meanwhile, all connections", "MiB/s", bulk(loaded), bulk(libp2p_loaded), libp2p::NAME, Goal::None);
}
