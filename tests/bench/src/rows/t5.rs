//! T5: requests and responses of 64 bytes, one and 32 at once.

use std::time::Instant;

use futures::future::join_all;
use tokio::sync::oneshot;

use super::Plan;
use crate::{
    measure::{Spent, Watch, median, on_worker, runtime},
    node::{Do, ECHO, filled, order, pair},
    peers::{
        libp2p,
        stream::{self, Flush},
    },
    report::{Figure, Goal, Printer},
};

const LEN: usize = 64;
const ALONE: usize = 10_000;
const CROWD: usize = 32;
const MANY: usize = 64_000;

/// Tasks that know nothing of each other, each with one request at a time.
async fn ours(tasks: usize, count: usize) -> (Vec<f64>, Spent) {
    let (answering, asking) = pair().await;
    let (handle, to) = (asking.handle.clone(), answering.id);
    let watch = Watch::start();
    let tasks = (0..tasks).map(|_| {
        let handle = handle.clone();
        tokio::spawn(async move {
            let (message, mut times) = (filled(ECHO, LEN), Vec::new());
            for _ in 0..count / tasks {
                let (answered, answer) = oneshot::channel();
                let at = Instant::now();
                order(&handle, Do::Ask(to, message.clone(), answered)).await;
                answer.await.expect("an answer");
                times.push(at.elapsed().as_secs_f64());
            }
            times
        })
    });
    let times = join_all(tasks).await.into_iter().flat_map(|times| times.expect("no panic")).collect();
    (times, watch.read())
}

async fn libp2p(in_flight: usize, count: usize, flush: Flush) -> (Vec<f64>, Spent) {
    let (asking, answering, _keep) = libp2p::pair().await;
    let echo = tokio::spawn(stream::echo(answering, flush));
    let result = stream::ask(asking, LEN, in_flight, count, flush).await;
    echo.abort();
    result
}

pub(crate) fn run(plan: &Plan, printer: Printer) {
    let runtime = runtime();
    if plan.ours {
        return (0..plan.runs).for_each(|_| _ = on_worker(&runtime, ours(CROWD, MANY)));
    }
    let mut alone: [Vec<f64>; 2] = Default::default();
    let mut crowd: [Vec<f64>; 3] = Default::default();
    for round in 0..=plan.runs {
        let once = [on_worker(&runtime, ours(1, ALONE)), on_worker(&runtime, libp2p(1, ALONE, Flush::Each))];
        let many = [
            on_worker(&runtime, ours(CROWD, MANY)),
            on_worker(&runtime, libp2p(CROWD, MANY, Flush::Each)),
            on_worker(&runtime, libp2p(CROWD, MANY, Flush::ByHand)),
        ];
        if round > 0 {
            alone.iter_mut().zip(once).for_each(|(of, (times, _))| of.push(median(&times) * 1e6));
            crowd.iter_mut().zip(many).for_each(|(of, (_, spent))| of.push(MANY as f64 / spent.wall));
        }
    }
    let figure = |what: &str, unit, ours, peer, peer_name: String, goal| {
        printer.figure(&Figure { row: "T5", what: what.into(), unit, ours, peer, peer_name, goal });
    };
    let [ours, peer] = alone;
    figure("request of 64 B, one at a time, p50", "us", ours, peer, libp2p::NAME.into(), Goal::AtMost(0.8));
    let [ours, each, by_hand] = crowd;
    let what = "requests of 64 B, 32 at once, of independent tasks";
    let name = |how: &str| format!("{}, {how}", libp2p::NAME);
    figure(what, "1/s", ours.clone(), each, name("flushed each"), Goal::AtLeast(8.0));
    figure(what, "1/s", ours, by_hand, name("batched by hand"), Goal::None);
}
