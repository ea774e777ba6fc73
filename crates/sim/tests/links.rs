//! Links: dialling, order, priorities, bandwidth, limits, requests.

mod probe;

use peerage_core::*;
use peerage_sim::*;
use probe::*;

fn links_up(sim: &mut Sim<Probe>, node: usize) -> Vec<LinkId> {
    let links = saw(sim, node).into_iter();
    links.filter_map(|saw| if let Saw::LinkUp(link, ..) = saw { Some(link) } else { None }).collect()
}

#[test]
fn a_dial_ends_in_a_link_that_counts_for_each_side_once_that_side_admits_it() {
    let mut sim = nodes(config(1), 2);
    sim.command(0, Do::Dial(addr(1), Some(id(1))));
    sim.run_for(millis(19));
    assert_eq!(saw(&mut sim, 0), [], "a round trip is 20 ms");
    sim.run_for(millis(1));
    let [Saw::LinkUp(ours, peer, true)] = saw(&mut sim, 0)[..] else { panic!("no link") };
    let [Saw::LinkUp(theirs, _, false)] = saw(&mut sim, 1)[..] else { panic!("no link at the other side") };
    assert_eq!(peer, id(1));

    sim.command(0, Do::Admit(ours));
    sim.command(0, Do::Send(vec![id(1)], message(VOTE, 3)));
    sim.run_for(millis(100));
    assert_eq!(saw(&mut sim, 0), [Saw::Up(id(1))]);
    assert_eq!(saw(&mut sim, 1), [], "a message waits for the admission");
    sim.command(1, Do::Admit(theirs));
    assert_eq!(saw(&mut sim, 1), [Saw::Up(id(0)), Saw::Message(id(0), VOTE, 3)]);

    sim.command(1, Do::Close(theirs, CloseReason::Surplus));
    sim.run_for(millis(10));
    assert_eq!(saw(&mut sim, 1), gone(theirs, id(0), Closed::by_us(CloseReason::Surplus)));
    assert_eq!(saw(&mut sim, 0), gone(ours, id(1), Closed::by_them(CloseReason::Surplus)));
}

#[test]
fn a_dial_that_cannot_succeed_says_why() {
    let mut sim = nodes(config(2), 4);
    sim.crash(2);
    sim.partition(&[&[3]]);
    let nobody = ([10, 9, 9, 9], 4_000).into();
    for (at, expected, why) in [
        (addr(1), Some(id(3)), Closed::by_us(CloseReason::WrongPeer)),
        (addr(0), None, Closed::by_us(CloseReason::SelfConnection)),
        (addr(2), None, Closed::by_network(CloseReason::DialRefused)),
        (nobody, None, Closed::by_network(CloseReason::DialRefused)),
        (addr(3), None, Closed::by_network(CloseReason::DialTimeout)),
    ] {
        sim.command(0, Do::Dial(at, expected));
        sim.run_for(millis(6_000));
        assert_eq!(saw(&mut sim, 0), [Saw::DialFailed(why)]);
    }
    assert_eq!(saw(&mut sim, 1), [], "who was dialled by mistake hears nothing");
}

#[test]
fn of_two_links_to_one_peer_the_newer_carries_and_the_peer_is_gone_with_the_last() {
    let mut sim = nodes(config(3), 2);
    sim.command(0, Do::Dial(addr(1), None));
    sim.command(1, Do::Dial(addr(0), None));
    sim.run_for(millis(20));
    for node in [0, 1] {
        for link in links_up(&mut sim, node) {
            sim.command(node, Do::Admit(link));
        }
    }
    let closed = Closed::by_us(CloseReason::Duplicate);
    assert_eq!(saw(&mut sim, 0), [Saw::Up(id(1))], "one peer, however many links");
    sim.command(0, Do::Close(LinkId(0), CloseReason::Duplicate));
    assert_eq!(saw(&mut sim, 0), [Saw::LinkDown(LinkId(0), closed)]);
    sim.command(0, Do::Send(vec![id(1)], message(VOTE, 3)));
    sim.run_for(millis(20));
    assert!(saw(&mut sim, 1).contains(&Saw::Message(id(0), VOTE, 3)));
    sim.command(0, Do::Close(LinkId(3), CloseReason::Duplicate));
    assert_eq!(saw(&mut sim, 0), gone(LinkId(3), id(1), closed));
}

#[test]
fn a_vote_overtakes_bulk_in_the_middle_of_a_message_and_each_class_keeps_its_order() {
    let uplink = 1_000_000;
    let mut sim = pair(SimConfig { uplink, ..config(4) });
    for bytes in [500_000, 400_000] {
        sim.command(0, Do::Send(vec![id(1)], message(BULK, bytes)));
    }
    sim.run_for(millis(100));
    for bytes in [1, 2] {
        sim.command(0, Do::Send(vec![id(1)], message(VOTE, bytes)));
    }
    sim.run_for(millis(28));
    // One record of 16 KiB takes 16 ms at 1 MB/s: that is the longest a vote waits, and then 10 ms of path.
    assert_eq!(saw(&mut sim, 1), [Saw::Message(id(0), VOTE, 1), Saw::Message(id(0), VOTE, 2)]);
    sim.run_for(millis(2_000));
    assert_eq!(saw(&mut sim, 1), [Saw::Message(id(0), BULK, 500_000), Saw::Message(id(0), BULK, 400_000)]);
}

#[test]
fn chance_delays_messages_but_does_not_reorder_those_of_a_link() {
    let path = Path { jitter: millis(50), ..Path::of(millis(10)) };
    let mut sim = pair(SimConfig { path, ..config(14) });
    for bytes in 1..=50 {
        sim.command(0, Do::Send(vec![id(1)], message(VOTE, bytes)));
        sim.run_for(millis(2));
    }
    sim.run_for(millis(100));
    let arrived = sim.events(1);
    assert_eq!(
        arrived.iter().map(|(_, saw)| saw.clone()).collect::<Vec<_>>(),
        (1..=50).map(|bytes| Saw::Message(id(0), VOTE, bytes)).collect::<Vec<_>>()
    );
    let gaps: std::collections::BTreeSet<_> = arrived.windows(2).map(|pair| pair[1].0.since(pair[0].0)).collect();
    assert!(gaps.len() > 5, "no chance in it: {gaps:?}");
}

#[test]
fn an_uplink_is_shared_by_links_and_a_narrow_path_holds_back_only_its_own() {
    let (uplink, framing) = (1_000_000, 0);
    let mut sim = nodes(SimConfig { uplink, framing, ..config(5) }, 3);
    sim.set_path(0, 2, Path { rate: Some(100_000), ..Path::of(millis(10)) });
    sim.connect(0, 1);
    sim.connect(0, 2);
    sim.command(0, Do::Send(vec![id(1), id(2)], message(BULK, 100_000)));
    sim.run_for(millis(3_000));
    let arrival = |sim: &mut Sim<Probe>, node: usize| {
        let events = sim.events(node).into_iter();
        events.filter_map(|(at, saw)| matches!(saw, Saw::Message(..)).then_some(at)).next().expect("it arrived")
    };
    let (wide, narrow) = (arrival(&mut sim, 1), arrival(&mut sim, 2));
    // 100 kB at 100 kB/s and 10 ms of path; twice or thrice it waits for the other link's record of 16 ms.
    let at = Timestamp::from_millis;
    assert!((at(1_010)..at(1_060)).contains(&narrow), "{narrow}");
    assert!((at(111)..at(211)).contains(&wide), "neither alone on the uplink nor held back by the other path: {wide}");
    assert_eq!(sim.traffic(0).sent_bytes[Class::Bulk], 200_000);
    assert_eq!(sim.traffic(1).received[Class::Bulk], 1);
}

#[test]
fn what_a_slow_link_cannot_hold_is_shed_and_room_is_announced_once() {
    let mut sim = pair(SimConfig { uplink: 1_000_000, queue: 250_000, ..config(6) });
    (0..4).for_each(|_| sim.command(0, Do::Send(vec![id(1)], message(BULK, 100_000))));
    assert_eq!(saw(&mut sim, 0), [const { Saw::Dropped(DropReason::PeerOverLimit) }; 2]);
    sim.command(0, Do::Request(id(1), 9, message(BULK, 100_000), millis(1_000)));
    assert_eq!(saw(&mut sim, 0), [Saw::Response(9, Err(RequestError::Dropped(DropReason::PeerOverLimit)))]);
    sim.run_for(millis(1_000));
    assert_eq!(saw(&mut sim, 0), [Saw::Writable]);
    assert_eq!(sim.traffic(0).shed, 2);
    sim.command(0, Do::Send(vec![id(1)], message(BULK, 3 << 20)));
    sim.command(0, Do::Send(vec![id(0)], message(BULK, 1)));
    sim.run_for(millis(1_000));
    assert_eq!(saw(&mut sim, 0), [Saw::Dropped(DropReason::TooLong), Saw::Dropped(DropReason::NotConnected)]);
}

#[test]
fn a_full_ledger_holds_back_its_senders_and_loses_nothing() {
    let mut sim = Sim::new(config(7));
    sim.add(spec(0));
    sim.add(NodeSpec { budget: Budget::new(250_000), ..spec(1) });
    sim.connect(0, 1);
    sim.command(1, Do::Hoard);
    (0..4).for_each(|_| sim.command(0, Do::Send(vec![id(1)], message(BULK, 100_000))));
    sim.run_for(millis(1_000));
    let arrived = saw(&mut sim, 1).iter().filter(|saw| matches!(saw, Saw::Message(..))).count();
    assert_eq!((arrived, sim.budget(1).report().resident), (2, 200_000));
    sim.command(1, Do::Release);
    sim.run_for(millis(1_000));
    assert_eq!(saw(&mut sim, 1), [Saw::Message(id(0), BULK, 100_000), Saw::Message(id(0), BULK, 100_000)]);
    assert_eq!((sim.budget(0).report().resident, sim.budget(1).report().resident), (0, 0));

    let mut sim = Sim::new(config(7));
    sim.add(NodeSpec { budget: Budget::new(250_000), ..spec(0) });
    sim.add(spec(1));
    sim.connect(0, 1);
    sim.command(0, Do::Send(vec![id(1)], message(BULK, 300_000)));
    sim.run_for(millis(10));
    assert_eq!(saw(&mut sim, 0)[1..], [Saw::Dropped(DropReason::OverBudget), Saw::Writable]);
}

#[test]
fn a_request_ends_exactly_once_in_an_answer_a_timeout_or_the_end_of_its_link() {
    let mut sim = pair(config(8));
    sim.command(0, Do::Request(id(1), 1, message(ECHO, 5), millis(100)));
    sim.command(0, Do::Request(id(1), 2, message(VOID, 5), millis(100)));
    sim.command(0, Do::Request(id(1), 3, message(ECHO, 6), millis(15)));
    sim.run_for(millis(15));
    assert_eq!(saw(&mut sim, 0), [Saw::Response(3, Err(RequestError::Timeout))], "an echo takes 20 ms");
    sim.run_for(millis(85));
    assert_eq!(saw(&mut sim, 0), [Saw::Response(1, Ok(5)), Saw::Response(2, Err(RequestError::Timeout))]);
    sim.command(0, Do::Request(id(1), 1, message(VOID, 5), millis(100)));
    sim.disconnect(1, 0, CloseReason::Banned);
    sim.run_for(millis(1_000));
    let closed = Closed::by_them(CloseReason::Banned);
    let [link_down, peer_down] = gone(LinkId(0), id(1), closed);
    assert_eq!(saw(&mut sim, 0), [link_down, peer_down, Saw::Response(1, Err(RequestError::Closed(closed)))]);
    sim.command(0, Do::Request(id(1), 1, message(ECHO, 5), millis(100)));
    assert_eq!(saw(&mut sim, 0), [Saw::Response(1, Err(RequestError::Dropped(DropReason::NotConnected)))]);
}

#[test]
fn a_heartbeat_carries_the_bytes_of_the_stack_every_thirty_seconds() {
    let mut sim = pair(config(9));
    sim.command(0, Do::Heartbeat("head 7".into()));
    sim.run_for(millis(62_000));
    assert_eq!(saw(&mut sim, 1), [const { Saw::Heartbeat(bytes::Bytes::from_static(b"head 7")) }; 3]);
    assert_eq!(saw(&mut sim, 0), [], "who has nothing to say beats in silence");
}
