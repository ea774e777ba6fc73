//! Who goes without when memory is short.

use peerage_core::{Debtor, Pressure, Strain, Taken};

use super::*;

fn owing(link: LinkId, number: u8, owed: usize) -> Debtor {
    let taken = Taken { bytes: 0, time: Duration::from_secs(10) };
    let (begun, reassembly, completed, inbox, sent_floor, held_floor, waits) = (0, 0, 0, 0, 100, 100, false);
    let peer = id(number);
    Debtor { link, peer, owed, begun, taken, reassembly, completed, inbox, sent_floor, held_floor, waits }
}

/// Nothing of what waits to be sent is taken.
fn short(bench: &mut Bench, debtors: &[Debtor]) -> Vec<Outlet> {
    let outbound = Strain { used: 8_000, limit: 8_000, refused: 0 };
    let pressure = Pressure { outbound, debtors: debtors.to_vec(), ..Pressure::default() };
    bench.manager.handle_network(bench.now, NetworkEvent::Pressure(Box::new(pressure)));
    bench.drain()
}

#[test]
fn who_owes_most_loses_messages_and_at_last_its_place_and_whom_the_operator_named_comes_last() {
    let mut bench = Bench::new(|config| config.trusted = vec![id(1)]);
    let (named, _) = bench.up(1, false);
    let (slow, _) = bench.up(2, false);
    let debtors = [owing(named, 1, 7_000), owing(slow, 2, 5_000)];
    assert_eq!(short(&mut bench, &debtors), [Outlet::Shed { link: slow, bytes: 2_000 }]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(short(&mut bench, &debtors), [Outlet::Stop(slow), Outlet::Shed { link: slow, bytes: 2_000 }]);
    bench.pass(Duration::from_secs(1));
    let done = short(&mut bench, &debtors);
    assert_eq!(done, [Outlet::Close { link: slow, reason: CloseReason::SlowPeer }]);
    assert!(bench.manager.peer(&id(2)).is_none() && bench.manager.peer(&id(1)).is_some());
    let done = short(&mut bench, &debtors[..1]);
    assert_eq!(done, [Outlet::Shed { link: named, bytes: 2_000 }], "when nobody else owes more than its floor");
    let (again, done) = bench.up(2, false);
    assert!(done.contains(&Outlet::Admit(again)), "slowness is no offence");
}

#[test]
fn keys_of_one_host_count_as_one_and_their_group_is_banned_when_they_come_again_and_again() {
    let mut bench = Bench::new(|config| config.addresses = AddressPolicy::Public);
    let of_host = |number: u8, host: [u8; 4]| (number, SocketAddr::from((host, 60_000 + u16::from(number))));
    let (honest, _) = bench.up_at(1, false, of_host(1, [9, 9, 9, 9]).1);
    let mut closed = 0;
    for round in 0_u64.. {
        let mut debtors =
            vec![Debtor { taken: Taken { bytes: 10_000_000, ..owing(honest, 1, 0).taken }, ..owing(honest, 1, 3_000) }];
        for number in 10..14 {
            let (number, remote) = of_host(number, [8, 8, 8, number]);
            let (link, done) = bench.up_at(number, false, remote);
            if done.contains(&(Outlet::Close { link, reason: CloseReason::Banned })) {
                let told = |event: &&PeerEvent| matches!(event, PeerEvent::Fault { fault: Fault::KeptMemory, .. });
                assert_eq!(bench.told.iter().filter(told).count(), closed);
                assert!((100..130).contains(&closed), "one point each, of a hundred, in two minutes: {closed}");
                assert!(bench.manager.peer(&id(1)).is_some());
                return;
            }
            debtors.push(owing(link, number, 2_900));
        }
        for _ in 0..3 {
            let done = short(&mut bench, &debtors);
            assert!(!done.contains(&Outlet::Stop(honest)), "{round}: {done:?}");
            closed += done
                .iter()
                .filter(|outlet| matches!(outlet, Outlet::Close { reason: CloseReason::SlowPeer, .. }))
                .count();
            debtors.retain(|debtor| bench.manager.peer(&debtor.peer).is_some());
            bench.now = Now { mono: bench.now.mono + Duration::from_secs(1), ..bench.now };
        }
    }
}

#[test]
fn hanging_up_while_memory_is_short_is_no_way_out_of_the_fault_and_neither_is_being_sent_away_as_a_guest() {
    let mut bench = Bench::new(|_| {});
    let links: Vec<_> = (1..=6).map(|number| bench.up(number, false).0).collect();
    let took = |bytes, debtor| Debtor { taken: Taken { bytes, time: Duration::from_secs(3) }, ..debtor };
    let begun = |debtor: Debtor| Debtor { begun: debtor.owed, ..debtor };
    let of = |number: u8, owed| owing(links[usize::from(number) - 1], number, owed);
    // One loses messages; of two nothing can be had, and they take nothing; one takes what was begun for it.
    let debtors = [
        took(0, of(1, 9_000)),
        took(0, begun(of(2, 5_000))),
        took(0, begun(of(3, 5_000))),
        took(1_000_000, begun(of(4, 5_000))),
        took(0, begun(of(5, 5_000))),
    ];
    let done = short(&mut bench, &debtors);
    assert_eq!(done, [Outlet::Shed { link: links[0], bytes: 2_000 }]);
    for number in [1, 2, 4, 6] {
        bench.down(links[number - 1]);
    }
    bench.manager.end(bench.now, &id(3), CloseReason::TooManyPeers);
    bench.down(links[2]);
    bench.manager.handle_network(bench.now, NetworkEvent::Pressure(Box::default()));
    bench.down(links[4]);
    bench.drain();
    let faults = bench.told.iter().filter_map(|event| match event {
        PeerEvent::Fault { peer, fault: Fault::KeptMemory } => Some(*peer),
        _ => None,
    });
    assert_eq!(faults.collect::<Vec<_>>(), [id(1), id(2), id(3)], "the fifth went when there was room again");
}

#[test]
fn guests_have_no_seat_whom_the_operator_named_has_one_more_and_seats_follow_the_limit() {
    let mut bench = Bench::new(|config| {
        (config.max_peers, config.target_outbound) = (2, 0);
        config.trusted = vec![id(1), id(2)];
    });
    let stays: Vec<_> = [10, 11].into_iter().map(|number| bench.up(number, false).0).collect();
    let (guest, _) = bench.up(12, false);
    assert_eq!((&bench.guests, bench.seats), (&[guest].into(), 2));
    bench.up(1, false);
    let (named, _) = bench.up(2, false);
    assert_eq!((bench.guests.len(), bench.seats), (1, 4), "and nobody's seat is less");
    bench.down(named);
    bench.drain();
    assert_eq!(bench.seats, 3);
    bench.down(stays[0]);
    bench.drain();
    assert_eq!((bench.guests.len(), bench.seats), (0, 3), "a place is free");
    let (guest, _) = bench.up(13, false);
    assert!(bench.guests.contains(&guest));
    let limits = PeerLimits { max_peers: 9, target_outbound: 1, ..PeerLimits::default() };
    bench.manager.handle_command(bench.now, PeerCommand::Limits(limits));
    bench.drain();
    assert_eq!((bench.guests.len(), bench.seats), (0, 9));
}
