//! A model, by hand, of what two connections owe each other, and random operations that look for a difference.
//!
//! The test has the keys of both directions (`model/eyes.rs`) and looks into every record: `model/half.rs` knows what may be
//! in the next one, `model/world.rs` what the other side must be told of it and when.

mod eyes;
mod half;
mod world;

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{CloseReason, Command, Message};
use peerage_transport::proto::connection::credit::{cost, window};
use peerage_wire::{compress, limits::class_default};
use proptest::{prelude::*, sample::Index};

use crate::harness::{A, B, HAVE, ITEM, STRANGE, SYNC, VOTE};
use world::World;

/// What happens to a connection. Whatever one of them names exists at any moment, so that a failure can be made shorter by
/// leaving some out.
#[derive(Clone, Debug)]
enum Op {
    Notify {
        side: usize,
        command: Command,
        len: usize,
        count: usize,
    },
    /// More of a class than it has credit for.
    Flood {
        side: usize,
        command: Command,
    },
    Request {
        side: usize,
        command: Command,
        len: usize,
        timeout: u64,
    },
    Respond {
        side: usize,
        which: Index,
        again: bool,
        command: Command,
        len: usize,
    },
    Consume {
        side: usize,
        which: Index,
        count: usize,
    },
    Heartbeat {
        side: usize,
        len: usize,
    },
    Write {
        side: usize,
        limit: usize,
        delay: u64,
    },
    Read {
        side: usize,
        most: usize,
    },
    /// Both sides write and read, until all arrived or somebody does not want it.
    Exchange {
        limit: usize,
    },
    Pass {
        millis: u64,
    },
    Squeeze {
        side: usize,
        left: usize,
    },
    Release {
        side: usize,
    },
    /// What waits is dropped.
    Shed {
        side: usize,
        bytes: usize,
    },
    Listen {
        side: usize,
        listens: bool,
    },
    Close {
        side: usize,
        reason: CloseReason,
    },
    Cut {
        side: usize,
        reason: CloseReason,
    },
}

fn side() -> impl Strategy<Value = usize> {
    prop_oneof![Just(A), Just(B)]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![3 => Just(VOTE), 3 => Just(HAVE), 3 => Just(ITEM), 3 => Just(SYNC), 1 => Just(STRANGE)]
}

/// From nothing to several records; about a record; about what a command allows.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..100usize,
        4 => 0..3000usize,
        2 => 16_300..16_400usize,
        3 => 0..70_000usize,
        1 => (256usize << 10) - 2..(256 << 10) + 2,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let count = prop_oneof![4 => Just(1usize), 1 => 2..12usize];
    let timeout = prop_oneof![1..500u64, 500..60_000u64];
    let millis = prop_oneof![6 => 0..200u64, 3 => 0..6000u64, 1 => 0..40_000u64];
    let ours = prop_oneof![Just(CloseReason::Shutdown), Just(CloseReason::Surplus), Just(CloseReason::Misbehaviour)];
    let broken = prop_oneof![Just(CloseReason::StreamEnded), Just(CloseReason::StreamError)];
    prop_oneof![
        30 => (side(), command(), len(), count).prop_map(|(side, command, len, count)| {
            // Bursts of what is long cost time and show nothing new.
            Op::Notify { side, command, len, count: if len > 70_000 { 1 } else { count } }
        }),
        15 => (side(), command(), len(), timeout)
            .prop_map(|(side, command, len, timeout)| Op::Request { side, command, len, timeout }),
        15 => (side(), any::<Index>(), prop::bool::weighted(0.2), command(), len())
            .prop_map(|(side, which, again, command, len)| Op::Respond { side, which, again, command, len }),
        15 => (side(), any::<Index>(), 1..20usize)
            .prop_map(|(side, which, count)| Op::Consume { side, which, count }),
        2 => (side(), 0..=64usize).prop_map(|(side, len)| Op::Heartbeat { side, len }),
        30 => (side(), prop_oneof![Just(0), Just(16 << 10), 0..100_000usize], prop_oneof![Just(0), 0..300u64])
            .prop_map(|(side, limit, delay)| Op::Write { side, limit, delay }),
        36 => (side(), prop_oneof![1..4usize, 1..3000usize, Just(usize::MAX)])
            .prop_map(|(side, most)| Op::Read { side, most }),
        18 => prop_oneof![3 => Just(64 << 10), 1 => Just(8 << 20)].prop_map(|limit| Op::Exchange { limit }),
        3 => (side(), prop_oneof![6 => Just(HAVE), 3 => Just(VOTE), 1 => Just(SYNC)])
            .prop_map(|(side, command)| Op::Flood { side, command }),
        18 => millis.prop_map(|millis| Op::Pass { millis }),
        6 => (side(), 0..100_000usize).prop_map(|(side, left)| Op::Squeeze { side, left }),
        6 => side().prop_map(|side| Op::Release { side }),
        3 => (side(), prop_oneof![0..2000usize, 0..200_000usize, Just(usize::MAX)])
            .prop_map(|(side, bytes)| Op::Shed { side, bytes }),
        6 => (side(), prop::bool::weighted(0.6)).prop_map(|(side, listens)| Op::Listen { side, listens }),
        1 => (side(), ours).prop_map(|(side, reason)| Op::Close { side, reason }),
        1 => (side(), broken).prop_map(|(side, reason)| Op::Cut { side, reason }),
    ]
}

/// A message of which every KiB tells its number and place.
fn message(command: Command, number: u64, len: usize) -> Message {
    let mut bytes = vec![number as u8; len];
    for (at, block) in bytes.chunks_mut(1024).enumerate() {
        let name = [number.to_be_bytes(), (at as u64).to_be_bytes()].concat();
        let few = block.len().min(name.len());
        block[..few].copy_from_slice(&name[..few]);
    }
    let bytes = Bytes::from(bytes);
    let head = bytes.slice(..len * (number % 4) as usize / 3);
    let body = bytes.slice(head.len()..);
    Message { command, body: (!body.is_empty() || number.is_multiple_of(2)).then_some(body), head }
}

fn act(world: &mut World, number: u64, op: &Op) {
    match *op {
        Op::Notify { side, command, len, count } => {
            (0..count).for_each(|more| world.notify(side, message(command, number * 100 + more as u64, len)));
        }
        Op::Request { side, command, len, timeout } => {
            world.request(side, message(command, number * 100, len), Duration::from_millis(timeout));
        }
        Op::Respond { side, which, again, command, len } => {
            world.respond(side, which.index(1 << 16), again, message(command, number * 100, len));
        }
        Op::Consume { side, which, count } => (0..count).for_each(|_| world.consume(side, which.index(1 << 16))),
        Op::Heartbeat { side, len } => world.heartbeat(side, vec![number as u8; len].into()),
        Op::Write { side, limit, delay } => {
            world.write(side, limit, Duration::from_millis(delay));
        }
        Op::Read { side, most } => {
            world.read(side, most);
        }
        Op::Flood { side, command } => {
            let class = command.class();
            let len = class_default(class);
            let count = window(class) / cost(len) + 2;
            (0..count).for_each(|more| world.notify(side, message(command, number * 100 + more as u64, len)));
        }
        Op::Exchange { limit } => {
            for side in [A, B] {
                world.write(side, limit, Duration::ZERO);
                while world.read(1 - side, usize::MAX) {}
            }
        }
        Op::Pass { millis } => world.pass(Duration::from_millis(millis)),
        Op::Squeeze { side, left } => world.squeeze(side, left),
        Op::Release { side } => world.release(side),
        Op::Shed { side, bytes } => world.shed(side, bytes),
        Op::Listen { side, listens } => world.listen(side, listens),
        Op::Close { side, reason } if !world.is_closed(side) => world.close(side, reason),
        Op::Cut { side, reason } if !world.is_closed(side) => world.cut(side, reason),
        Op::Close { .. } | Op::Cut { .. } => {}
    }
}

/// A few seconds' worth; `PROPTEST_CASES=20000` looks closer.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn each_message_of_a_class_arrives_once_and_in_order_whatever_happens(
        seed in any::<u64>(),
        ik in any::<bool>(),
        // Without the feature `lz4` nobody offers it, whatever is asked for.
        compresses in any::<bool>(),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new(seed, ik, compresses && compress::AVAILABLE);
        for (number, op) in ops.iter().enumerate() {
            act(&mut world, number as u64, op);
        }
        world.settle();
        // Whoever is still there says goodbye, and all that was charged is given back.
        if !world.is_closed(A) {
            world.close(A, CloseReason::Shutdown);
            world.settle();
            assert!(world.is_closed(B));
        }
    }
}
