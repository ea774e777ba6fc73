//! Who goes without when memory is short.

use peerage_core::{Debtor, Pressure, Strain};

use super::*;

fn owing(link: LinkId, number: u8, owed: usize) -> Debtor {
    let (sent_floor, held_floor) = (100, 100);
    Debtor { link, peer: id(number), owed, reassembly: 0, inbox: 0, sent_floor, held_floor, waits: false }
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
