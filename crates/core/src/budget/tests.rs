use super::*;

#[test]
fn the_cap_is_hard_and_a_dropped_charge_makes_room() {
    let budget = Budget::new(100);
    let first = budget.charge(Pool::Inbox, 60).expect("fits");
    let refused = budget.charge(Pool::Inbox, 41).expect_err("60 + 41 > 100");
    assert_eq!(refused, OverBudget { wanted: 41, used: 60, cap: 100 });
    drop(first);
    let _second = budget.charge(Pool::Outbound, 100).expect("room again");
    let report = budget.report();
    assert_eq!((report.resident, report.peak, report.refused), (100, 100, 1));
}

#[test]
fn with_shares_a_flood_in_one_pool_leaves_the_others_theirs() {
    let budget = Budget::with_shares(3200);
    let mut flood = Vec::new();
    while let Ok(charge) = budget.charge(Pool::Mempool, 100) {
        flood.push(charge);
    }
    assert_eq!(flood.len(), 8, "a quarter of the whole");
    for pool in Pool::ALL.into_iter().filter(|pool| *pool != Pool::Mempool) {
        let all = budget.charge(pool, budget.limit(pool)).expect("its whole share is there");
        flood.push(all);
    }
    assert_eq!(budget.report().resident, 3200, "the shares add up to the whole");
}

#[test]
fn a_transfer_changes_the_pool_but_never_the_sum() {
    let budget = Budget::new(100);
    let charge = budget.charge(Pool::Reassembly, 70).expect("fits").transfer(Pool::Inbox);
    let by_pool = |pool: Pool| budget.report().pools[pool as usize].1;
    assert_eq!((by_pool(Pool::Reassembly), by_pool(Pool::Inbox), budget.report().resident), (0, 70, 70));
    drop(charge);
    assert_eq!(budget.report().resident, 0);
}

#[test]
fn a_growing_buffer_pays_as_it_grows() {
    let budget = Budget::new(100);
    let mut charge = budget.charge(Pool::Reassembly, 10).expect("fits");
    charge.grow(90).expect("fits exactly");
    charge.grow(1).expect_err("one too many");
    assert_eq!(charge.bytes(), 100);
    charge.shrink_to(30);
    assert_eq!(budget.report().resident, 30);
}

#[test]
fn a_shared_buffer_is_resident_once_but_owed_by_each_peer() {
    let budget = Budget::new(100);
    let (fast, slow) = (Budget::account(100), Budget::account(100));
    let _once = budget.charge(Pool::Outbound, 80).expect("fits");
    let to_fast = fast.owe(80).expect("within the limit");
    let _to_slow = slow.owe(80).expect("within the limit");
    slow.owe(21).expect_err("this peer owes enough");
    drop(to_fast);
    assert_eq!((budget.report().resident, fast.owed(), slow.owed()), (80, 0, 80));
}

#[test]
fn absurd_sizes_are_refused_without_overflow() {
    let budget = Budget::new(usize::MAX);
    let _some = budget.charge(Pool::Table, 10).expect("fits");
    budget.charge(Pool::Table, usize::MAX).expect_err("the sum does not even fit a counter");
}

fn seated(budget: &Budget) -> Account {
    let account = Budget::account(usize::MAX);
    budget.seat(&account);
    account
}

/// The pools that peers fill have 1,600, 800 and 800 of this, of which 400, 200 and 200 are set aside for four peers.
fn for_four() -> Budget {
    Budget::with_floors(6400, 4)
}

#[test]
fn the_first_bytes_of_a_peer_fit_whatever_others_took() {
    let budget = for_four();
    let (greedy, modest) = (seated(&budget), seated(&budget));
    let mut taken = Vec::new();
    for pool in [Pool::Outbound, Pool::Reassembly, Pool::Inbox] {
        while let Ok(charge) = budget.charge_for(&greedy, pool, 10) {
            taken.push(charge);
        }
    }
    assert_eq!([Pool::Outbound, Pool::Inbox].map(|pool| modest.floor(pool)), [100, 100]);
    for pool in [Pool::Outbound, Pool::Inbox] {
        taken.push(budget.charge_for(&modest, pool, 100).expect("its floor"));
        budget.charge_for(&modest, pool, 1).expect_err("what is beyond it is shared, and gone");
    }
    assert_eq!(modest.held(Pool::Inbox), 100);
    let held = [Pool::Outbound, Pool::Reassembly, Pool::Inbox].map(|pool| greedy.held(pool));
    assert_eq!(held, [1200 + 100, 600 + 100, 600], "its floor of what it makes the node hold is one for both pools");
    drop(taken);
    assert_eq!((budget.report().resident, budget.strain(Pool::Inbox).used), (0, 0));
}

#[test]
fn floors_lie_within_the_shares_and_the_cap_so_that_all_of_them_can_be_had() {
    let budget = for_four();
    let accounts: Vec<_> = (0..4).map(|_| seated(&budget)).collect();
    let mut taken = Vec::new();
    for pool in Pool::ALL {
        while let Ok(charge) = budget.charge(pool, 10) {
            taken.push(charge);
        }
    }
    assert_eq!(budget.report().resident, 6400 - 800, "all but the floors");
    for account in &accounts {
        for pool in [Pool::Outbound, Pool::Reassembly] {
            taken.push(budget.charge_for(account, pool, 100).expect("its floor"));
        }
    }
    assert_eq!((budget.report().resident, budget.report().peak), (6400, 6400));
}

#[test]
fn there_are_as_many_floors_as_peers_and_who_goes_leaves_its_own() {
    let budget = for_four();
    let mut accounts: Vec<_> = (0..5).map(|_| seated(&budget)).collect();
    let floors = |accounts: &[Account]| accounts.iter().map(|account| account.floor(Pool::Inbox)).collect::<Vec<_>>();
    assert_eq!(floors(&accounts), [100, 100, 100, 100, 0]);
    let charge = budget.charge_for(&accounts[0], Pool::Inbox, 50).expect("its floor");
    drop(accounts.remove(0));
    assert_eq!(seated(&budget).floor(Pool::Inbox), 0, "what it made the node hold is still there");
    drop(charge);
    assert_eq!(seated(&budget).floor(Pool::Inbox), 100);
}

#[test]
fn floors_follow_the_number_of_seats_and_what_is_in_use_of_one_is_taken_back_when_it_is_free() {
    let budget = for_four();
    let accounts: Vec<_> = (0..4).map(|_| seated(&budget)).collect();
    let floors = || accounts.iter().map(|account| account.floor(Pool::Inbox)).collect::<Vec<_>>();
    let charge = budget.charge_for(&accounts[0], Pool::Inbox, 80).expect("its floor");
    budget.set_seats(8);
    accounts.iter().for_each(|account| budget.seat(account));
    assert_eq!((floors(), budget.floor(Pool::Inbox)), (vec![80, 50, 50, 50], 50));
    let fifth = seated(&budget);
    let others: Vec<_> = (0..4).map(|_| seated(&budget)).collect();
    let got: usize = others.iter().chain([&fifth]).map(|account| account.floor(Pool::Inbox)).sum();
    assert_eq!(got + floors().iter().sum::<usize>(), 400, "never more than was set aside");
    drop(charge);
    drop(others);
    accounts.iter().for_each(|account| budget.seat(account));
    assert_eq!(floors(), [50; 4]);
    budget.set_seats(2);
    accounts[..2].iter().for_each(|account| budget.seat(account));
    assert_eq!(
        accounts[..2].iter().map(|account| account.floor(Pool::Outbound)).sum::<usize>(),
        250,
        "what is left of it"
    );
    let guest = Budget::account(usize::MAX);
    budget.enter(&guest);
    let _held = budget.charge_for(&guest, Pool::Inbox, 10).expect("fits");
    assert_eq!((guest.floor(Pool::Inbox), guest.held(Pool::Inbox)), (0, 10), "a guest's is noted and shared");
    drop((accounts, fifth));
    assert_eq!(seated(&budget).floor(Pool::Inbox), 200, "nothing is lost");
}

#[test]
fn what_has_begun_to_go_out_and_what_was_completed_are_told() {
    let budget = for_four();
    let account = seated(&budget);
    let (mut begun, other) = (account.owe(70).expect("fits"), account.owe(30).expect("fits"));
    begun.begin();
    begun.begin();
    assert_eq!((account.owed(), account.begun()), (100, 70));
    drop((begun, other));
    assert_eq!((account.owed(), account.begun()), (0, 0));
    let charge = budget.charge_for(&account, Pool::Reassembly, 60).expect("fits");
    assert_eq!(account.completed(), 0);
    drop(charge.transfer(Pool::Inbox));
    assert_eq!(account.completed(), 60);
}

#[test]
fn an_assembled_message_stays_in_the_floor_that_paid_for_its_pieces() {
    let budget = for_four();
    let account = seated(&budget);
    let mut charge = budget.charge_for(&account, Pool::Reassembly, 40).expect("fits");
    charge.grow(100).expect("60 of the floor, 40 of what all share");
    assert_eq!(budget.strain(Pool::Reassembly).used, 40);
    let charge = charge.transfer(Pool::Inbox);
    assert_eq!([Pool::Reassembly, Pool::Inbox].map(|pool| account.held(pool)), [0, 140]);
    assert_eq!([Pool::Reassembly, Pool::Inbox].map(|pool| budget.strain(pool).used), [0, 40]);
    let by_pool = |pool: Pool| budget.report().pools[pool as usize].1;
    assert_eq!([Pool::Reassembly, Pool::Inbox].map(by_pool), [0, 140]);
    let mut charge = charge;
    charge.shrink_to(100);
    assert_eq!((budget.strain(Pool::Inbox).used, account.held(Pool::Inbox)), (0, 100), "what is shared goes first");
    drop(charge);
    assert_eq!((budget.report().resident, account.held(Pool::Inbox)), (0, 0));
}

#[test]
fn many_threads_at_once_take_no_more_than_there_is_and_give_it_all_back() {
    const ROUNDS: usize = 20_000;
    let budget = for_four();
    let accounts: Vec<_> = (0..2).map(|_| seated(&budget)).collect();
    std::thread::scope(|scope| {
        for (number, account) in accounts.iter().chain(&accounts).enumerate() {
            let budget = &budget;
            scope.spawn(move || {
                let mut held = std::collections::VecDeque::new();
                for round in 0..ROUNDS {
                    let pool = [Pool::Outbound, Pool::Reassembly, Pool::Inbox][round % 3];
                    let bytes = 1 + (round * 7 + number * 13) % 160;
                    if let Ok(charge) = budget.charge_for(account, pool, bytes) {
                        held.push_back(if pool == Pool::Reassembly { charge.transfer(Pool::Inbox) } else { charge });
                    }
                    if held.len() > 8 || round % 5 == 0 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    let report = budget.report();
    assert!(report.peak <= report.cap && report.peak > 0, "{report:?}");
    assert_eq!(report.resident, 0, "{report:?}");
    for pool in [Pool::Outbound, Pool::Reassembly, Pool::Inbox] {
        assert_eq!((budget.strain(pool).used, report.pools[pool as usize].1), (0, 0));
        assert!(accounts.iter().all(|account| account.held(pool) == 0));
    }
    // The floors are whole again.
    let _inbox = budget.charge_for(&accounts[0], Pool::Inbox, 100).expect("its floor");
    assert_eq!(budget.strain(Pool::Inbox).used, 0);
}
