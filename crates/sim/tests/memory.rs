//! Memory that is short: who is told, and what is done about it.

mod probe;

use peerage_core::*;
use peerage_sim::*;
use probe::*;

const ITEM: usize = 100_000;

/// A node of little memory with two peers, the first of whom a partition keeps from taking anything.
fn with_a_deaf_peer(seed: u64) -> Sim<Probe> {
    let mut sim = Sim::new(SimConfig { framing: 0, ..config(seed) });
    sim.add(NodeSpec { budget: Budget::new(1_000_000), ..spec(0) });
    (1..3).for_each(|number| assert_eq!(sim.add(spec(number)), number));
    (1..3).for_each(|number| sim.connect(0, number));
    sim.partition(&[&[1]]);
    sim.run_for(millis(100));
    saw(&mut sim, 0);
    sim.command(0, Do::Watch);
    sim
}

fn short(sim: &mut Sim<Probe>) -> Vec<Vec<(NodeId, usize, usize)>> {
    let seen = saw(sim, 0).into_iter();
    seen.filter_map(|saw| if let Saw::Short(debtors) = saw { Some(debtors) } else { None }).collect()
}

#[test]
fn what_waits_for_a_peer_is_dropped_from_the_lowest_class_upwards_and_there_is_room_again() {
    let mut sim = with_a_deaf_peer(1);
    sim.command(0, Do::Send(vec![id(1)], message(VOTE, ITEM)));
    (0..8).for_each(|_| sim.command(0, Do::Send(vec![id(1)], message(BULK, ITEM))));
    sim.run_for(millis(100));
    let told = short(&mut sim);
    assert!(told.len() > 2 && told.iter().all(|debtors| *debtors == [(id(1), 9 * ITEM, 0)]), "{told:?}");
    sim.command(0, Do::Link(Outlet::Shed { link: LinkId(0), bytes: 7 * ITEM + 1 }));
    let shed = saw(&mut sim, 0);
    assert_eq!(shed.iter().filter(|saw| **saw == Saw::Dropped(DropReason::Shed)).count(), 8, "{shed:?}");
    assert_eq!(sim.budget(0).report().resident, ITEM, "the vote stays");
    sim.run_for(millis(400));
    assert!(saw(&mut sim, 0).contains(&Saw::Writable));
    sim.run_for(millis(1_000));
    assert_eq!(short(&mut sim), Vec::<Vec<_>>::new(), "and that is over");
    (0..4).for_each(|_| sim.command(0, Do::Send(vec![id(2)], message(BULK, ITEM))));
    sim.run_for(millis(1_000));
    assert_eq!(saw(&mut sim, 2), [vec![Saw::Up(id(0))], vec![Saw::Message(id(0), BULK, ITEM); 4]].concat());
}

#[test]
fn a_request_that_is_dropped_fails_and_one_of_which_a_part_was_sent_does_not() {
    let mut sim = nodes(SimConfig { uplink: 1_000_000, ..config(2) }, 2);
    sim.connect(0, 1);
    for number in 0..3 {
        sim.command(0, Do::Request(id(1), number, message(ECHO, ITEM), millis(60_000)));
    }
    sim.run_for(millis(50)); // half of the first
    saw(&mut sim, 0);
    sim.command(0, Do::Link(Outlet::Shed { link: LinkId(0), bytes: usize::MAX }));
    let dropped = |number| Saw::Response(number, Err(RequestError::Dropped(DropReason::Shed)));
    assert_eq!(saw(&mut sim, 0), [dropped(2), dropped(1)]);
    sim.run_for(millis(1_000));
    assert_eq!(saw(&mut sim, 0), [Saw::Response(0, Ok(ITEM))]);
}

#[test]
fn who_is_not_read_from_waits_and_loses_nothing() {
    let mut sim = nodes(config(3), 2);
    sim.connect(0, 1);
    saw(&mut sim, 0);
    sim.command(0, Do::Link(Outlet::Stop(LinkId(0))));
    (0..3).for_each(|length| sim.command(1, Do::Send(vec![id(0)], message(VOTE, length))));
    sim.run_for(millis(5_000));
    assert_eq!(saw(&mut sim, 0), []);
    sim.command(0, Do::Link(Outlet::Resume(LinkId(0))));
    sim.run_for(millis(100));
    assert_eq!(saw(&mut sim, 0), [0, 1, 2].map(|length| Saw::Message(id(1), VOTE, length)));
}

#[test]
fn a_peer_has_its_floor_in_what_is_sent_and_in_what_arrives_when_others_took_the_rest() {
    let mut sim = Sim::new(config(4));
    sim.add(NodeSpec { budget: Budget::with_floors(3_200_000, 2), ..spec(0) });
    (1..3).for_each(|number| assert_eq!(sim.add(spec(number)), number));
    (1..3).for_each(|number| sim.connect(0, number));
    let budget = sim.budget(0).clone();
    let all = |pool| (0..).map_while(|_| budget.charge(pool, 1_000).ok()).collect::<Vec<_>>();
    let (_outbound, _inbox) = (all(Pool::Outbound), all(Pool::Inbox));
    sim.command(0, Do::Send(vec![id(1), id(2)], message(BULK, ITEM)));
    sim.command(2, Do::Send(vec![id(0)], message(BULK, 90_000)));
    sim.run_for(millis(1_000));
    assert!((1..3).all(|number| saw(&mut sim, number).contains(&Saw::Message(id(0), BULK, ITEM))));
    assert!(saw(&mut sim, 0).contains(&Saw::Message(id(2), BULK, 90_000)));
}
