//! T1: the CPU time of a handshake, both sides together, on one thread.

use std::{future::Future, time::Duration};

use tokio::{io::duplex, runtime::Builder};

use super::Plan;
use crate::{
    machines,
    measure::{Watch, each},
    peers::{
        libp2p::{self, Noise},
        snow::{self, Statics},
        tls::{self, Tls},
    },
    report::{Figure, Goal, Printer},
};

/// How long each is repeated in a round.
const SPAN: Duration = Duration::from_millis(700);

pub(crate) fn run(plan: &Plan, printer: Printer) {
    let (a, b) = (machines::config(1), machines::config(2));
    if plan.ours {
        (0..plan.runs).for_each(|_| _ = each(SPAN, || machines::handshake(&a, &b)));
        return;
    }
    let (noise, tls, statics) = (Noise::new(), Tls::new(), Statics::new());
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (mut ours, mut libp2p, mut rustls, mut snow) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.runs {
        ours.push(each(SPAN, || machines::handshake(&a, &b)) / 1e3);
        libp2p.push(runtime.block_on(repeat(|| noise.handshake())));
        rustls.push(runtime.block_on(repeat(|| async {
            let (ours, theirs) = duplex(8 << 10);
            tls.over(ours, theirs).await;
        })));
        snow.push(each(SPAN, || statics.handshake()) / 1e3);
    }
    for (peer, peer_name, goal) in [
        (libp2p, libp2p::NAME, Goal::AtMost(0.75)),
        (rustls, tls::NAME, Goal::AtMost(1.2)),
        (snow, snow::NAME, Goal::None),
    ] {
        printer.figure(&Figure {
            row: "T1",
            what: "handshake with identities, CPU of both sides".into(),
            unit: "us",
            ours: ours.clone(),
            peer,
            peer_name: peer_name.into(),
            goal,
        });
    }
}

/// CPU microseconds of one.
async fn repeat<F: Future<Output = ()>>(one: impl Fn() -> F) -> f64 {
    one().await;
    let (watch, mut count) = (Watch::start(), 0_u32);
    while watch.read().wall < SPAN.as_secs_f64() {
        one().await;
        count += 1;
    }
    watch.read().cpu * 1e6 / f64::from(count)
}
