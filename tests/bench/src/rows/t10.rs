//! T10: payloads. Ours are checked and canonical; the peer's are not, for Protocol Buffers have no such form.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use peerage_wire::payload::{Exact, from_exact_bytes, to_bytes};
use prost::Message;

use super::Plan;
use crate::{
    measure::each,
    peers::proto,
    report::{Figure, Goal, Printer},
};

pub(crate) mod shapes;

/// How long each is repeated in a round.
const SPAN: Duration = Duration::from_millis(100);
const NAME: &str = "prost (shared bytes)";

pub(crate) fn run(plan: &Plan, printer: Printer) {
    // The allocator takes short cuts in a process of one thread, which a node is not.
    let (ends, end) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || end.recv().is_ok());
    let block = shapes::block();
    compare::<_, proto::Transaction>(plan, printer, "transaction of 100 B of value", &block.transactions[0]);
    compare::<_, proto::Block>(plan, printer, "block of 500 transactions", &block);
    compare::<_, proto::Records>(plan, printer, "list of 50 peer records", &shapes::records());
    drop(ends);
    thread.join().expect("it only waits");
}

fn compare<T, P>(plan: &Plan, printer: Printer, what: &str, value: &T)
where
    T: Exact + PartialEq,
    P: for<'a> From<&'a T> + Message + PartialEq + Default,
{
    let bytes = to_bytes(value);
    assert!(from_exact_bytes::<T>(&bytes, bytes.len()).is_ok_and(|again| again == *value));
    let peer = P::from(value);
    let peer_bytes = Bytes::from(peer.encode_to_vec());
    assert!(P::decode(peer_bytes.clone()).is_ok_and(|again| again == peer));
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..plan.runs {
        let round = [
            each(SPAN, || drop(black_box(to_bytes(black_box(value))))),
            each(SPAN, || drop(black_box(black_box(&peer).encode_to_vec()))),
            each(SPAN, || drop(black_box(from_exact_bytes::<T>(black_box(&bytes), bytes.len())))),
            each(SPAN, || drop(black_box(P::decode(black_box(peer_bytes.clone()))))),
        ];
        times.iter_mut().zip(round).for_each(|(of, one)| of.push(one));
    }
    let figure = |verb: &str, unit, ours: Vec<f64>, peer: Vec<f64>, name: &str, goal| {
        let what = format!("{what}, {verb}");
        printer.figure(&Figure { row: "T10", what, unit, ours, peer, peer_name: name.into(), goal });
    };
    let [encode, peer_encode, decode, peer_decode] = times;
    figure("encode", "ns", encode, peer_encode, NAME, Goal::AtMost(1.0));
    figure("decode, checked and canonical", "ns", decode, peer_decode, NAME, Goal::AtMost(1.0));
    let (ours, prost) = (vec![bytes.len() as f64], vec![peer_bytes.len() as f64]);
    let json = vec![serde_json::to_vec(value).expect("a value without maps").len() as f64];
    figure("length", "B", ours.clone(), prost, NAME, Goal::AtMost(1.0));
    figure("length", "B", ours, json, "JSON", Goal::AtMost(0.3));
}
