use core::time::Duration;

use bytes::Bytes;
use peerage_core::{CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, LinkStats, UnixMillis};

use crate::harness::{A, B, HAVE, Pair, SECOND, config, message};

#[test]
pub(crate) fn a_quiet_connection_pings_every_thirty_seconds_and_lives() {
    let mut pair = Pair::connected(1);
    pair.command(A, ConnectionCommand::Heartbeat(Bytes::from_static(b"height 7")));
    pair.command(A, ConnectionCommand::Heartbeat(Bytes::from(vec![0; 65]))); // too long: the old one stays
    pair.pass(301 * SECOND);
    let rtts = |side: usize| pair.sides[side].events.iter().filter(|event| matches!(event, ConnectionEvent::Stats(_)));
    assert!((5..=10).contains(&rtts(A).count()) && (5..=10).contains(&rtts(B).count()), "{:?}", pair.sides[A].events);
    let heads = pair.sides[B].events.iter().filter_map(|event| match event {
        ConnectionEvent::Heartbeat(data) => Some(data.as_ref()),
        _ => None,
    });
    assert!(heads.clone().count() >= 10 && heads.into_iter().all(|data| data == b"height 7"));
}

#[test]
pub(crate) fn a_connection_without_life_ends_after_ninety_seconds() {
    let mut pair = Pair::connected(2);
    // B's machine is gone; what A writes goes nowhere.
    let mut pings = 0;
    while !pair.is_closed(A) {
        pair.now.mono = pair.sides[A].connection.next_timeout().expect("not closed");
        pair.sides[A].connection.handle_timeout(pair.now);
        pings += usize::from(!pair.transmit(A, usize::MAX).is_empty());
    }
    assert_eq!(pair.now.mono.0, 90_000_000_000);
    assert_eq!(pings, 3, "at 30 and 60 s, and the last word");
    assert_eq!(pair.closed_at(A), Closed::by_us(CloseReason::HeartbeatTimeout));
}

#[test]
pub(crate) fn any_record_is_life_and_a_busy_connection_does_not_ping() {
    let mut pair = Pair::connected(3);
    for count in 0..30 {
        pair.pass(10 * SECOND);
        pair.notify(A, message(HAVE, count, 10));
        pair.notify(B, message(HAVE, count, 10));
    }
    for side in [A, B] {
        let beats = pair.sides[side].events.iter().filter(|event| !matches!(event, ConnectionEvent::Message { .. }));
        assert_eq!(beats.count(), 0);
    }
}

#[test]
pub(crate) fn the_round_trip_is_that_of_the_wire() {
    let mut pair = Pair::connected(4);
    let hop = Duration::from_millis(40);
    pair.now.mono = pair.now.mono + 30 * SECOND;
    pair.sides[A].connection.handle_timeout(pair.now);
    let ping = pair.transmit(A, usize::MAX);
    pair.now.mono = pair.now.mono + hop;
    pair.deliver(B, &ping);
    let pong = pair.transmit(B, usize::MAX);
    pair.now.mono = pair.now.mono + hop;
    pair.deliver(A, &pong);
    let events: Vec<_> = pair.sides[A].events.drain(..).collect();
    // The first sample, at establishment, took no time at all: RFC 6298 gives the new one an eighth, and a quarter of its distance.
    let known = LinkStats { rtt: 2 * hop / 8, minimum: Duration::ZERO, jitter: 2 * hop / 4, clock_offset_ms: 0 };
    assert!(matches!(&*events, [ConnectionEvent::Stats(stats)] if *stats == known), "{events:?}");
}

#[test]
fn each_side_learns_how_far_the_clock_of_the_other_is_ahead() {
    let mut pair = Pair::fresh(5, config(1), config(2), None);
    let (hop, ahead) = (Duration::from_millis(40), 90_000);
    // B's clock goes wrong by a minute and a half. What one side writes arrives a hop later.
    pair.now.wall = UnixMillis(1_000_000_000);
    for turn in 0..8 {
        let side = turn % 2;
        let right = pair.now.wall;
        pair.now.wall = UnixMillis(right.0 + if side == B { ahead } else { 0 });
        pair.write(side);
        pair.now.wall = right + hop;
        pair.now.mono = pair.now.mono + hop;
        let right = pair.now.wall;
        pair.now.wall = UnixMillis(right.0 + if side == A { ahead } else { 0 });
        while pair.read(1 - side) {}
        pair.now.wall = right;
    }
    for (side, offset) in [(A, 90_000), (B, -90_000)] {
        let told = pair.sides[side].events.iter().find_map(|event| match event {
            ConnectionEvent::Stats(stats) => Some(*stats),
            _ => None,
        });
        assert_eq!(told, Some(LinkStats::first(2 * hop, offset)), "side {side}");
    }
}
