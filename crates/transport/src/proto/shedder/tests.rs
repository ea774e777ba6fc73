use super::*;
use peerage_core::pressure::HIGH_EIGHTHS;
use proptest::prelude::*;

const FLOOR: usize = 100;
const LIMIT: usize = 8000;

fn id(number: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn link(number: usize) -> LinkId {
    LinkId(number as u64)
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn nobody(_: &NodeId) -> bool {
    false
}

fn debtor(number: usize, owed: usize, reassembly: usize, inbox: usize) -> Debtor {
    let (sent_floor, held_floor) = (FLOOR, FLOOR);
    Debtor { link: link(number), peer: id(number), owed, reassembly, inbox, sent_floor, held_floor, waits: false }
}

fn strain(used: usize, refused: u64) -> Strain {
    Strain { used, limit: LIMIT, refused }
}

/// What waits to be sent fills its pool.
fn unsent(used: usize, debtors: &[Debtor]) -> Pressure {
    Pressure { outbound: strain(used, 0), debtors: debtors.to_vec(), ..Pressure::default() }
}

/// Incomplete messages do, and somebody was refused so many times.
fn incomplete(refused: u64, debtors: &[Debtor]) -> Pressure {
    Pressure { reassembly: strain(LIMIT, refused), debtors: debtors.to_vec(), ..Pressure::default() }
}

/// What waits for the stack does.
fn unread(used: usize, debtors: &[Debtor]) -> Pressure {
    Pressure { inbox: strain(used, 0), debtors: debtors.to_vec(), ..Pressure::default() }
}

#[test]
fn who_owes_most_loses_messages_first_and_no_more_than_brings_the_pool_below_its_low_mark() {
    let mut shedder = Shedder::default();
    let debtors = [debtor(1, 3000, 0, 0), debtor(2, 3600, 0, 0), debtor(3, 500, 0, 0)];
    assert_eq!(shedder.look(at(0), &unsent(7000, &debtors), nobody), [], "the high mark is not passed");
    let done = shedder.look(at(1), &unsent(7100, &debtors), nobody);
    assert_eq!(done, [Measure::Shed { link: link(2), bytes: 1100 }]);
    let done = shedder.look(at(2), &unsent(8000, &[debtor(1, 1200, 0, 0), debtor(2, 1500, 0, 0)]), nobody);
    let shed = |number, bytes| Measure::Shed { link: link(number), bytes };
    assert_eq!(done, [shed(2, 1400), shed(1, 600)], "down to its floor, then the next");
    assert_eq!(shedder.look(at(3), &unsent(6000, &debtors), nobody), [], "and there it ends");
}

#[test]
fn who_stays_the_one_who_owes_most_is_not_read_from_and_then_disconnected() {
    let mut shedder = Shedder::default();
    let pressure = unsent(8000, &[debtor(1, 7000, 0, 0)]);
    let shed = Measure::Shed { link: link(1), bytes: 2000 };
    assert_eq!(shedder.look(at(0), &pressure, nobody), [shed]);
    assert_eq!(shedder.look(at(999), &pressure, nobody), [shed], "not so soon after");
    assert_eq!(shedder.look(at(1000), &pressure, nobody), [Measure::Stop(link(1)), shed]);
    let done = shedder.look(at(2000), &pressure, nobody);
    assert_eq!(done, [Measure::Close { peer: id(1), reason: CloseReason::SlowPeer }]);
}

#[test]
fn who_takes_what_waits_for_it_begins_anew() {
    let mut shedder = Shedder::default();
    let full = unsent(8000, &[debtor(1, 7000, 0, 0)]);
    shedder.look(at(0), &full, nobody);
    shedder.look(at(1000), &full, nobody);
    assert_eq!(shedder.look(at(1500), &unsent(8000, &[]), nobody), [Measure::Resume(link(1))], "it reads");
    let shed = Measure::Shed { link: link(1), bytes: 2000 };
    assert_eq!(shedder.look(at(4000), &full, nobody), [shed], "the first step again");
}

#[test]
fn a_refusal_counts_although_the_pool_is_not_full() {
    let mut shedder = Shedder::default();
    let debtors = [debtor(1, 3000, 0, 0)];
    let refused = |count| Pressure { outbound: strain(5000, count), debtors: debtors.to_vec(), ..Pressure::default() };
    assert_eq!(shedder.look(at(0), &refused(1), nobody), [Measure::Shed { link: link(1), bytes: 1000 }]);
    assert_eq!(shedder.look(at(250), &refused(1), nobody), [], "that is over");
}

#[test]
fn whom_the_operator_named_goes_last() {
    let mut shedder = Shedder::default();
    let pressure = unsent(8000, &[debtor(1, 6000, 0, 0), debtor(2, 1100, 0, 0), debtor(3, 1100, 0, 0)]);
    let done = shedder.look(at(0), &pressure, |peer| *peer == id(1));
    let shed = |number, bytes| Measure::Shed { link: link(number), bytes };
    assert_eq!(done, [shed(2, 1000), shed(3, 1000)], "of equals the lower id first");
}

#[test]
fn who_holds_most_of_what_is_incomplete_goes_when_others_have_waited_long_enough() {
    let mut shedder = Shedder::default();
    let debtors = [debtor(1, 0, 2000, 0), debtor(2, 0, 3500, 0), debtor(3, 0, 2500, 50)];
    let mut refused = 0;
    let mut closed = Vec::new();
    for millis in (0..=3000).step_by(50) {
        refused += 1;
        for measure in shedder.look(at(millis), &incomplete(refused, &debtors), nobody) {
            closed.push((millis, measure));
        }
        if closed.len() == 2 {
            break;
        }
    }
    // The second look of the story still has the first in it: whoever runs this takes it away.
    let hoarding = |number| Measure::Close { peer: id(number), reason: CloseReason::Hoarding };
    assert_eq!(closed, [(2000, hoarding(2)), (2250, hoarding(2))]);
    let quiet = shedder.look(at(9000), &incomplete(refused, &debtors), nobody);
    assert_eq!(quiet, [], "full, but nobody waits");
}

#[test]
fn who_cannot_go_on_for_want_of_memory_goes_after_who_does_not_want_to() {
    let mut shedder = Shedder::default();
    let waiting = Debtor { waits: true, ..debtor(1, 0, 5000, 0) };
    for millis in (0..2000).step_by(50) {
        assert_eq!(shedder.look(at(millis), &incomplete(millis + 1, &[waiting, debtor(2, 0, 2900, 0)]), nobody), []);
    }
    let hoarding = |number| [Measure::Close { peer: id(number), reason: CloseReason::Hoarding }];
    let both = incomplete(2001, &[waiting, debtor(2, 0, 2900, 0)]);
    assert_eq!(shedder.look(at(2000), &both, nobody), hoarding(2));
    assert_eq!(
        shedder.look(at(2300), &incomplete(2002, &[waiting]), nobody),
        hoarding(1),
        "or all would wait for ever"
    );
}

#[test]
fn who_fills_the_inbox_is_not_read_from_until_there_is_room() {
    let mut shedder = Shedder::default();
    let debtors = [debtor(1, 0, 0, 3000), debtor(2, 0, 0, 4000), debtor(3, 0, 0, 90)];
    assert_eq!(shedder.look(at(0), &unread(7500, &debtors), nobody), [Measure::Stop(link(2))]);
    assert_eq!(shedder.look(at(20), &unread(7400, &debtors), nobody), [Measure::Stop(link(1))]);
    assert_eq!(shedder.look(at(40), &unread(7300, &debtors), nobody), [], "nobody else is beyond its floor");
    assert_eq!(shedder.look(at(9_000), &unread(6500, &debtors), nobody), [], "however long that takes");
    let done = shedder.look(at(9_020), &unread(6000, &debtors), nobody);
    assert_eq!(done, [1, 2].map(|number| Measure::Resume(link(number))));
}

/// A peer of the model below.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// What waits for it, and how much of that has begun to go out.
    owed: usize,
    begun: usize,
    reassembly: usize,
    inbox: usize,
    /// Bytes that it takes, and that it sends if it may, at each look.
    takes: usize,
    sends: usize,
    /// Whether it ends its messages.
    ends: bool,
    named: bool,
    stopped: bool,
    gone: bool,
}

fn load() -> impl Strategy<Value = Load> {
    let bytes = || prop_oneof![0..=FLOOR, 0..3000_usize];
    let rates = (prop_oneof![Just(0_usize), 0..400_usize], prop_oneof![Just(0_usize), 0..400_usize]);
    (bytes(), bytes(), bytes(), rates, any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(owed, reassembly, inbox, (takes, sends), begun, ends, named)| {
            let begun = if begun { owed.min(50) } else { 0 };
            Load { owed, begun, reassembly, inbox, takes, sends, ends, named, stopped: false, gone: false }
        },
    )
}

/// The pools that such loads make, floors aside.
fn pressure(loads: &[Load], refused: u64) -> Pressure {
    let standing = || loads.iter().enumerate().filter(|(_, load)| !load.gone);
    let beyond = |bytes: fn(&Load) -> usize| standing().map(|(_, load)| bytes(load).saturating_sub(FLOOR)).sum();
    let debtors = standing().map(|(number, load)| Debtor {
        waits: load.ends && load.reassembly > 0,
        ..debtor(number, load.owed, load.reassembly, load.inbox)
    });
    Pressure {
        outbound: strain(beyond(|load| load.owed), 0),
        reassembly: strain(beyond(|load| load.reassembly), refused),
        inbox: strain(beyond(|load| load.inbox), 0),
        debtors: debtors.filter(|debtor| owes(debtor) > 0 || holds(debtor) > 0).collect(),
    }
}

proptest! {
    /// Whatever the loads, nobody within its floor is touched, nobody before one who owes more, each measure has its debtor, and memory is short no more in the end.
    #[test]
    fn pressure_ends_at_the_cost_of_those_who_owe_most(mut loads in prop::collection::vec(load(), 1..12)) {
        let mut shedder = Shedder::default();
        let (mut measures, mut refused, mut last) = (0, 0, Pressure::default());
        for round in 0..1500_u64 {
            let before = pressure(&loads, refused);
            let named: Vec<bool> = loads.iter().map(|load| load.named).collect();
            let is_named = |peer: &NodeId| (0..named.len()).any(|number| named[number] && id(number) == *peer);
            let done = shedder.look(at(round * 20), &before, is_named);
            measures += if round < 500 { 0 } else { done.len() };
            prop_assert!(done.len() <= 2 * loads.len() + 2, "{done:?}");
            let mut poorest: Option<(bool, usize)> = None;
            for measure in &done {
                let number = match measure {
                    Measure::Shed { link, .. } | Measure::Stop(link) | Measure::Resume(link) => link.0 as usize,
                    Measure::Close { peer, .. } => (0..loads.len()).find(|n| id(*n) == *peer).expect("one of them"),
                };
                let found = before.debtors.iter().find(|debtor| debtor.link == link(number));
                let load = &mut loads[number];
                match measure {
                    Measure::Resume(_) => load.stopped = false,
                    Measure::Stop(_) => {
                        prop_assert!(found.is_some(), "within its floor: {measure:?}");
                        load.stopped = true;
                    }
                    Measure::Shed { bytes, .. } => {
                        prop_assert!(found.is_some_and(|debtor| owes(debtor) >= *bytes && *bytes > 0), "{measure:?}");
                        let rank = (!load.named, load.owed);
                        prop_assert!(poorest.is_none_or(|poorest| poorest >= rank), "{measure:?} before others: {done:?}");
                        poorest = Some(rank);
                        load.owed = load.begun.max(load.owed - bytes);
                    }
                    Measure::Close { reason, .. } => {
                        let owes_so = |debtor: &Debtor| match reason {
                            CloseReason::SlowPeer => owes(debtor) > 0,
                            _ => holds(debtor) > 0 && debtor.reassembly > 0,
                        };
                        prop_assert!(found.is_some_and(owes_so), "{measure:?}");
                        (load.gone, load.owed, load.reassembly, load.inbox) = (true, 0, 0, 0);
                    }
                }
            }
            // The world goes on: who reads takes, who may sends, and the stack consumes.
            for load in loads.iter_mut().filter(|load| !load.gone) {
                load.owed = load.owed.saturating_sub(load.takes);
                load.begun = load.begun.min(load.owed);
                load.inbox = load.inbox.saturating_sub(150);
                if load.ends && before.reassembly.used < LIMIT {
                    load.reassembly = 0;
                }
                if round < 500 && !load.stopped && before.inbox.used + load.sends < LIMIT {
                    load.inbox += load.sends;
                }
            }
            if before.reassembly.used >= LIMIT {
                refused += 1;
            }
            last = before;
        }
        for strain in [last.outbound, last.reassembly, last.inbox] {
            prop_assert!(strain.used < LIMIT, "{last:?} with {loads:?}");
        }
        prop_assert!(last.outbound.used <= LIMIT / 8 * HIGH_EIGHTHS, "{last:?}");
        prop_assert!(loads.iter().all(|load| !load.stopped || load.gone), "{loads:?} wait for ever");
        prop_assert!(measures <= 4 * loads.len(), "{measures} measures when nobody sends any more");
    }
}
