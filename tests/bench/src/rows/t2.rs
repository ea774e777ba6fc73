//! T2: round trips from the beginning of a dial to the first response, in virtual time.

use std::time::Duration;

use super::Plan;
use crate::{
    machines,
    report::{Figure, Goal, Printer},
};

const LATENCY: Duration = Duration::from_millis(50);

pub(crate) fn run(_: &Plan, printer: Printer) {
    let taken = machines::first_response(LATENCY).as_secs_f64() / (2 * LATENCY).as_secs_f64();
    let figure = |what: &str, peer: f64, peer_name: &str, goal| Figure {
        row: "T2",
        what: what.into(),
        unit: "RTT",
        ours: vec![taken],
        peer: vec![peer],
        peer_name: peer_name.into(),
        goal,
    };
    let stranger = "dial to first response, a stranger, 50 ms each way, virtual time";
    printer.figure(&figure(stranger, 3.0, "target: 3, as rust-libp2p over TCP (published)", Goal::AtMost(1.0)));
    let known = "the same, a peer whose record is fresh";
    printer.figure(&figure(known, 2.0, "target: 2, as Noise IK or QUIC", Goal::AtMost(1.0)));
    printer.note("T2", "the handshake is Noise XX for everybody, so a known peer costs as much as a stranger");
}
