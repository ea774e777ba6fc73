use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use peerage_core::{Class, Command, Connection, ConnectionCommand, ConnectionEvent, Message, PerClass};
use peerage_wire::limits::MAX_CONTENT;
use rand_core::Rng;

use crate::harness::{A, B, HAVE, ITEM, Pair, SYNC, VOTE, config, credit_of, message, number};

const COMMANDS: [Command; 4] = [VOTE, HAVE, ITEM, SYNC];

/// What one side expects of the other, by hand: no record, no fragment, no credit.
#[derive(Default)]
struct Model {
    /// Numbers and lengths on their way, by class; whatever they are for, a class keeps their order.
    under_way: PerClass<VecDeque<(u64, usize)>>,
    /// Requests of this side without an end.
    open: BTreeMap<u64, ()>,
    /// Requests that this side has to answer.
    asked: Vec<u64>,
    /// Deliveries that this side has not consumed.
    unconsumed: Vec<ConnectionEvent>,
}

struct World {
    seed: u64,
    pair: Pair,
    models: [Model; 2],
    next: u64,
}

impl World {
    fn below(&mut self, limit: u64) -> u64 {
        self.pair.rng.next_u64() % limit
    }

    /// A message that is small most of the time.
    fn draw(&mut self, from: usize) -> Message {
        let command = COMMANDS[self.below(4) as usize];
        let longest = match command.class() {
            Class::Consensus => 256 << 10,
            Class::Signal => 64 << 10,
            _ if self.below(12) == 0 => MAX_CONTENT as u64,
            _ => 200_000,
        };
        let top = [100, 1000, 20_000, longest][[0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3][self.below(12) as usize]];
        let len = 8 + self.below(top - 7) as usize;
        self.next += 1;
        self.models[1 - from].under_way[command.class()].push_back((self.next, len));
        message(command, self.next, len)
    }

    fn act(&mut self) {
        let side = self.below(2) as usize;
        match self.below(12) {
            0..=2 => {
                let message = self.draw(side);
                self.pair.notify(side, message);
            }
            3 => {
                let message = self.draw(side);
                let name = number(&message);
                self.models[side].open.insert(name, ());
                self.pair.request(side, name, message, Duration::from_secs(1_000_000));
            }
            4 if !self.models[side].asked.is_empty() => {
                let which = self.below(self.models[side].asked.len() as u64) as usize;
                let id = self.models[side].asked.swap_remove(which);
                let message = self.draw(side);
                self.pair.respond(side, id, message);
            }
            5..=6 => {
                self.pair.write(side);
            }
            7..=8 => {
                self.pair.read(side);
            }
            9..=10 if !self.models[side].unconsumed.is_empty() => {
                let which = self.below(self.models[side].unconsumed.len() as u64) as usize;
                let event = self.models[side].unconsumed.swap_remove(which);
                self.consume(side, &event);
            }
            11 => {
                let silence = self.below(20) == 0;
                let time = Duration::from_millis(if silence { 31_000 } else { self.below(1000) });
                self.pair.now.mono = self.pair.now.mono + time;
                for side in [A, B] {
                    self.pair.sides[side].connection.handle_timeout(self.pair.now);
                }
                if silence {
                    self.pair.run(); // or it would become death one day
                }
            }
            _ => {}
        }
        self.check(A);
        self.check(B);
    }

    fn consume(&mut self, side: usize, event: &ConnectionEvent) {
        let (class, bytes) = credit_of(event).expect("only deliveries are kept");
        self.pair.command(side, ConnectionCommand::Consumed { class, bytes });
    }

    /// Compares what happened at a side with what should have.
    fn check(&mut self, side: usize) {
        let seed = self.seed;
        self.pair.drain(side);
        while let Some(event) = self.pair.sides[side].events.pop_front() {
            let model = &mut self.models[side];
            let got = match &event {
                ConnectionEvent::Rtt(_) | ConnectionEvent::Heartbeat(_) => continue,
                ConnectionEvent::Message { message, .. } => message,
                ConnectionEvent::Request { id, message, .. } => {
                    model.asked.push(*id);
                    message
                }
                ConnectionEvent::Response { id, result: Ok((message, _)) } => {
                    assert!(model.open.remove(id).is_some(), "seed {seed}: {id} ended twice");
                    message
                }
                other => panic!("seed {seed}: {other:?}"),
            };
            let due = model.under_way[got.command.class()].pop_front();
            let (number, len) = due.unwrap_or_else(|| panic!("seed {seed}: {got:?} out of nothing"));
            assert!(*got == message(got.command, number, len), "seed {seed}: {got:?} instead of {number}");
            model.unconsumed.push(event);
        }
    }

    /// Everything arrives once the sides read, write, consume and answer.
    fn settle(&mut self) {
        loop {
            self.pair.run();
            let mut quiet = true;
            for side in [A, B] {
                self.check(side);
                for event in core::mem::take(&mut self.models[side].unconsumed) {
                    self.consume(side, &event);
                    quiet = false;
                }
                for id in core::mem::take(&mut self.models[side].asked) {
                    let message = self.draw(side);
                    self.pair.respond(side, id, message);
                    quiet = false;
                }
            }
            if quiet {
                break;
            }
        }
        let seed = self.seed;
        for (model, side) in self.models.iter().zip(&self.pair.sides) {
            assert!(model.under_way.iter().all(|(_, queue)| queue.is_empty()), "seed {seed}: something never arrived");
            assert!(model.open.is_empty(), "seed {seed}: a request has no end");
            assert_eq!(side.account.owed() + side.outbound_budget.report().resident, 0, "seed {seed}");
            assert_eq!(side.config.budget.report().resident, 0, "seed {seed}: memory is left behind");
        }
    }
}

#[test]
fn each_message_of_a_class_arrives_once_and_in_order_whatever_happens() {
    for seed in 0..6 {
        // The pipe of this model may stand still for minutes, which is nobody's fault here.
        let patient = |number| {
            let mut config = config(number);
            config.stall_window = Duration::from_secs(24 * 3600);
            config
        };
        let mut pair = Pair::connected_with(seed, patient(1), patient(2));
        pair.sides.iter_mut().for_each(|side| side.consumes = false);
        let mut world = World { seed, pair, models: Default::default(), next: 0 };
        (0..1500).for_each(|_| world.act());
        world.settle();
    }
}
