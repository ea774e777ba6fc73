//! CAP: what passes in ten seconds under a limit of bytes a second, and how long votes take meanwhile.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use peerage_transport::driver::Bandwidth;

use super::Plan;
use crate::{
    measure::{on_worker, quantile, runtime},
    node::{Do, Node, PIECE, Saw, VOTE, filled, pair, stamped},
    report::{Figure, Goal, Printer},
};

/// Bytes a second: a slow uplink, 200 Mbit/s, and what a machine does with ease.
const LIMITS: [u64; 3] = [1_000_000, 25_000_000, 100_000_000];
const CHUNK: usize = 64 << 10;
/// Half of what may wait for a peer.
const WINDOW: u64 = 32;
const EVERY: u64 = 4;
/// The first burst, and on the receiving side the credit that the sender has from the beginning.
const RAMP: Duration = Duration::from_secs(2);
const STRETCH: Duration = Duration::from_secs(10);
const VOTES: usize = 100;

#[derive(Clone, Copy)]
enum Way {
    Out,
    In,
}

struct Seen {
    /// Bytes a second, as the receiver counted them.
    rate: f64,
    /// p99 of the votes in microseconds.
    p99: f64,
}

async fn ours(way: Way, limit: u64) -> Seen {
    let (a, mut b) = pair().await;
    let limit = NonZeroU64::new(limit);
    match way {
        Way::Out => a.handle.limit_bandwidth(Bandwidth { egress: limit, ingress: None }),
        Way::In => b.handle.limit_bandwidth(Bandwidth { egress: None, ingress: limit }),
    }
    b.order(Do::Expect { every: EVERY, count: u64::MAX }).await;
    a.order(Do::Stream { to: b.id, message: filled(PIECE, CHUNK), count: u64::MAX, window: WINDOW }).await;
    tokio::time::sleep(RAMP).await;
    let (start, before) = (Instant::now(), b.handle.bandwidth().received);
    let mut times = Vec::new();
    for vote in 1..=VOTES {
        let due = STRETCH * u32::try_from(vote).expect("few") / u32::try_from(VOTES).expect("few");
        tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
        a.order(Do::Send(b.id, stamped(VOTE, 200))).await;
        times.push(b.see(|saw| if let Saw::Vote(nanos) = saw { Some(nanos as f64 / 1e3) } else { None }).await);
    }
    let rate = (b.handle.bandwidth().received - before) as f64 / start.elapsed().as_secs_f64();
    a.order(Do::Stop).await;
    end(a, b).await;
    Seen { rate, p99: quantile(&times, 0.99) }
}

async fn end(a: Node, b: Node) {
    a.handle.shutdown().await;
    b.handle.shutdown().await;
}

/// One round: ten seconds are many records, and the limit is no other program.
pub(crate) fn run(_: &Plan, printer: Printer) {
    for (way, name) in [(Way::Out, "sent"), (Way::In, "read")] {
        for limit in LIMITS {
            let Seen { rate, p99 } = on_worker(&runtime(), ours(way, limit));
            let figure = |what: String, unit, ours, peer: f64, peer_name: &str, goal| {
                let (ours, peer, peer_name) = (vec![ours], vec![peer], peer_name.into());
                printer.figure(&Figure { row: "CAP", what, unit, ours, peer, peer_name, goal });
            };
            let (mega, limit) = (rate / 1e6, limit as f64 / 1e6);
            let what = format!("{name} in 10 s under a limit of {limit} MB/s");
            figure(what.clone(), "MB/s", mega, limit, "the limit, from above", Goal::AtMost(1.05));
            figure(what, "MB/s", mega, limit, "the limit, from below", Goal::AtLeast(0.95));
            let what = format!("p99 of 200 B Consensus meanwhile, {limit} MB/s {name}");
            let record = (16_403.0_f64.min(limit * 50_000.0)) / limit;
            figure(what, "us", p99, record, "the time of a record", Goal::None);
        }
    }
}
