//! T4: small notifications one way, which the application sends one by one.

use super::Plan;
use crate::{
    measure::{Spent, Watch, on_worker, runtime},
    node::{Do, Flow, ITEM, Saw, filled, order, pair},
    peers::{
        libp2p,
        stream::{self, Flush},
        tls::{self, Tls},
    },
    report::{Figure, Goal, Printer},
};

const LEN: usize = 256;
/// Messages a round: enough that both ends of it do not matter.
const MANY: usize = 500_000;
const SLOW: usize = 100_000;
/// Each message counts 512 bytes against the 4 MiB that may wait for a peer: this fills half.
const FLOW: Flow = Flow { window: 4096, every: 512 };

/// The application is a task of its own and reaches its stack through the handle, once for each message.
async fn by_handle() -> Spent {
    let (mut receiver, mut sender) = pair().await;
    receiver.order(Do::Expect { every: FLOW.every, count: MANY as u64 }).await;
    let (handle, to) = (sender.handle.clone(), receiver.id);
    let watch = Watch::start();
    let sending = tokio::spawn(async move {
        let message = filled(ITEM, LEN);
        let mut under_way = 0;
        for _ in 0..MANY {
            while under_way >= FLOW.window {
                under_way -= sender.see(acked).await;
            }
            order(&handle, Do::Send(to, message.clone())).await;
            under_way += 1;
        }
        sender
    });
    receiver.see(finished).await;
    let spent = watch.read();
    drop(sending.await.expect("no panic"));
    spent
}

/// The application is a protocol of the stack, and sends each message by an action of its own.
async fn by_protocol() -> Spent {
    let (mut receiver, sender) = pair().await;
    receiver.order(Do::Expect { every: FLOW.every, count: MANY as u64 }).await;
    let watch = Watch::start();
    let message = filled(ITEM, LEN);
    sender.order(Do::Stream { to: receiver.id, message, count: MANY as u64, window: FLOW.window }).await;
    receiver.see(finished).await;
    watch.read()
}

fn acked(saw: Saw) -> Option<u64> {
    if let Saw::Acked(count) = saw { Some(count) } else { None }
}

fn finished(saw: Saw) -> Option<()> {
    (saw == Saw::Finished).then_some(())
}

async fn libp2p(flush: Flush, count: usize) -> Spent {
    let (writer, reader, _keep) = libp2p::pair().await;
    stream::one_way(writer, reader, LEN, count, flush).await
}

async fn rustls(tls: Tls, flush: Flush, count: usize) -> Spent {
    let (writer, reader) = tls.pair().await;
    stream::one_way(writer, reader, LEN, count, flush).await
}

pub(crate) fn run(plan: &Plan, printer: Printer) {
    let (runtime, tls) = (runtime(), Tls::new());
    if plan.ours {
        return (0..plan.runs).for_each(|_| _ = on_worker(&runtime, by_protocol()));
    }
    let mut spent: [Vec<Spent>; 5] = Default::default();
    for round in 0..=plan.runs {
        let all = [
            on_worker(&runtime, by_handle()),
            on_worker(&runtime, by_protocol()),
            on_worker(&runtime, libp2p(Flush::Each, SLOW)),
            on_worker(&runtime, libp2p(Flush::ByHand, MANY)),
            on_worker(&runtime, rustls(tls.clone(), Flush::ByHand, MANY)),
        ];
        if round > 0 {
            spent.iter_mut().zip(all).for_each(|(of, one)| of.push(one));
        }
    }
    let counts = [MANY, MANY, SLOW, MANY, MANY].map(|count| count as f64);
    let rate = |of: usize| spent[of].iter().map(|spent| counts[of] / spent.wall).collect::<Vec<_>>();
    let cpu = |of: usize| spent[of].iter().map(|spent| spent.cpu * 1e6 / counts[of]).collect::<Vec<_>>();
    // What ring makes possible is asked of a build with it.
    let batched = Goal::AtLeast(if cfg!(feature = "ring") { 1.5 } else { 1.0 });
    for (ours, how) in [(1, "by a protocol"), (0, "by a task, through its handle")] {
        for (peer, peer_name, goal) in [
            (2, format!("{}, flushed each", libp2p::NAME), Goal::AtLeast(5.0)),
            (3, format!("{}, batched by hand", libp2p::NAME), batched),
            (4, format!("{}, batched by hand", tls::NAME), batched),
        ] {
            let figure = |what: &str, unit, ours, peer, goal| Figure {
                row: "T4",
                what: format!("256 B one way, sent one by one {how}, {what}"),
                unit,
                ours,
                peer,
                peer_name: peer_name.clone(),
                goal,
            };
            printer.figure(&figure("messages a second", "1/s", rate(ours), rate(peer), goal));
            printer.figure(&figure("CPU", "us", cpu(ours), cpu(peer), Goal::None));
        }
    }
}
