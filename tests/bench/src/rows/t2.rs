//! T2: round trips from the beginning of a dial to the first response, in virtual time.

use std::time::Duration;

use super::Plan;
use crate::{
    machines::{self, Whom},
    report::{Figure, Goal, Printer},
};

const LATENCY: Duration = Duration::from_millis(50);

pub(crate) fn run(_: &Plan, printer: Printer) {
    let taken = |whom| machines::first_response(whom, LATENCY).as_secs_f64() / (2 * LATENCY).as_secs_f64();
    let figure = |what: &str, whom, peer: f64, peer_name: &str, goal| Figure {
        row: "T2",
        what: what.into(),
        unit: "RTT",
        ours: vec![taken(whom)],
        peer: vec![peer],
        peer_name: peer_name.into(),
        goal,
    };
    let stranger = "dial to first response, a stranger, 50 ms each way, virtual time";
    printer.figure(&figure(
        stranger,
        Whom::Stranger,
        3.0,
        "target: 3, as rust-libp2p over TCP (published)",
        Goal::AtMost(1.0),
    ));
    let known = "the same, a process that was met before, asked with the first words";
    printer.figure(&figure(known, Whom::Known, 2.0, "target: 2, as Noise IK or QUIC", Goal::AtMost(1.0)));
    printer.note(
        "T2",
        "a process is known while this one lives: its key stands in no record yet, and one that has restarted costs 4",
    );
}
