//! T3: a large transfer over one connection on loopback, in messages of 64 KiB.

use super::Plan;
use crate::{
    measure::{Spent, on_worker, runtime},
    node::{Do, Flow, PIECE, Saw, filled, pair},
    peers::{
        libp2p, stream,
        tls::{self, Tls},
    },
    report::{Figure, Goal, Printer},
};

const CHUNK: usize = 64 << 10;
/// Half of what may wait for a peer, so that the connection always has something to send and nothing is shed.
const FLOW: Flow = Flow { window: 32, every: 4 };

/// Moves so many bytes through a pair of our stacks; also for warming up.
pub(crate) async fn ours(total: usize) -> Spent {
    let (receiver, sender) = pair().await;
    let count = (total / CHUNK) as u64;
    receiver.order(Do::Expect { every: FLOW.every, count }).await;
    let mut receiver = receiver;
    let watch = crate::measure::Watch::start();
    let message = filled(PIECE, CHUNK);
    sender.order(Do::Stream { to: receiver.id, message, count, window: FLOW.window }).await;
    receiver.see(|saw| (saw == Saw::Finished).then_some(())).await;
    watch.read()
}

pub(crate) fn run(plan: &Plan, printer: Printer) {
    let total = plan.mib << 20;
    let runtime = runtime();
    if plan.ours {
        return (0..plan.runs).for_each(|_| _ = on_worker(&runtime, ours(total)));
    }
    let tls = Tls::new();
    let libp2p = |total| async move {
        let (writer, reader, _keep) = libp2p::pair().await;
        stream::bulk(writer, reader, total, CHUNK).await
    };
    let rustls = |total| {
        let tls = tls.clone();
        async move {
            let (writer, reader) = tls.pair().await;
            stream::bulk(writer, reader, total, CHUNK).await
        }
    };
    let mut spent: [Vec<Spent>; 3] = Default::default();
    for round in 0..=plan.runs {
        // The first round warms up and is small.
        let total = if round == 0 { total.min(64 << 20) } else { total };
        let all =
            [on_worker(&runtime, ours(total)), on_worker(&runtime, libp2p(total)), on_worker(&runtime, rustls(total))];
        if round > 0 {
            spent.iter_mut().zip(all).for_each(|(of, one)| of.push(one));
        }
    }
    let gib = total as f64 / f64::from(1 << 30);
    let cpu = |of: &[Spent]| of.iter().map(|spent| spent.cpu / gib).collect::<Vec<_>>();
    let rate = |of: &[Spent]| of.iter().map(|spent| gib / spent.wall).collect::<Vec<_>>();
    let [ours, libp2p, rustls] = &spent;
    let (against_libp2p, against_rustls) =
        if cfg!(feature = "ring") { (Goal::AtMost(0.5), Goal::AtMost(0.95)) } else { (Goal::AtMost(0.7), Goal::None) };
    for (peer, peer_name, goal) in [(libp2p, libp2p::NAME, against_libp2p), (rustls, tls::NAME, against_rustls)] {
        let figure = |what: &str, unit, ours, peer, goal| Figure {
            row: "T3",
            what: format!("bulk of {} MiB, 64 KiB messages, {what}", plan.mib),
            unit,
            ours,
            peer,
            peer_name: peer_name.into(),
            goal,
        };
        printer.figure(&figure("CPU of both sides", "s/GiB", cpu(ours), cpu(peer), goal));
        printer.figure(&figure("rate", "GiB/s", rate(ours), rate(peer), Goal::None));
    }
}
