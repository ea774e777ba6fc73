//! The table, by examples and by properties.

use super::*;
use crate::RecordBody;
use core::time::Duration;
use peerage_core::{NetworkId, Seed};
use peerage_transport::proto::keypair::Keypair;
use proptest::prelude::*;
use rand_core::Rng;
use std::sync::LazyLock;

const WALL: UnixMillis = UnixMillis(1_000_000_000_000);

fn record_at(number: u64, seq: u64, ip: [u8; 4]) -> NodeRecord {
    let mut seed = [0; 32];
    Seed::from_u64(number).stream("key").fill_bytes(&mut seed);
    let body = RecordBody { seq, addrs: vec![(ip, 4_000).into()], features: 0, issued_at: WALL };
    NodeRecord::sign(&Keypair::from_seed(&seed), NetworkId::default(), body)
}

/// A record on the loopback interface, where no limits of subnets apply.
fn record(number: u64) -> NodeRecord {
    record_at(number, 1, [127, 0, 0, 1])
}

/// Signing is slow, so the tests share these.
static RECORDS: LazyLock<Vec<NodeRecord>> = LazyLock::new(|| (0..300).map(record).collect());

/// Inserts a node that came from the first address of its record.
fn insert(table: &mut Table, now: Timestamp, record: NodeRecord) -> Inserted {
    let ip = record.addrs()[0].ip();
    table.insert(now, record, ip)
}

fn table() -> Table {
    Table::new(DhtKey::from_bytes([0; 32]), AddressPolicy::Loopback, Budget::default())
}

/// Records of the farthest bucket, into which half of all fall.
fn far() -> impl Iterator<Item = NodeRecord> {
    RECORDS.iter().filter(|record| record.key().as_bytes()[0] >= 0x80).cloned()
}

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

#[test]
fn a_full_bucket_keeps_whom_it_has_until_one_failed_three_times() {
    let (mut table, records) = (table(), far().take(28).collect::<Vec<_>>());
    for record in &records[..16] {
        assert_eq!(insert(&mut table, at(1), record.clone()), Inserted::Added);
    }
    for record in &records[16..] {
        assert_eq!(insert(&mut table, at(2), record.clone()), Inserted::Waiting { check: None }, "all are connected");
    }
    assert_eq!(table.len(), 16);
    let old = records[0].node();
    for _ in 0..9 {
        assert!(!table.failed(&old), "a connected node is not gone");
    }
    table.set_connected(&old, false);
    table.seen(at(3), &old);
    assert!(!table.failed(&old) && !table.failed(&old));
    assert!(table.failed(&old), "the third time");
    assert!(table.get(&old).is_none());
    assert!(table.get(&records[27].node()).is_some(), "the latest newcomer has its place");
    assert_eq!(table.len(), 16);
}

#[test]
fn the_least_recently_seen_is_to_be_checked_when_somebody_waits_but_not_too_often() {
    let (mut table, records) = (table(), far().take(19).collect::<Vec<_>>());
    for record in &records[..16] {
        insert(&mut table, at(1), record.clone());
        table.set_connected(&record.node(), false);
    }
    table.seen(at(2), &records[0].node());
    let check = Some(records[1].clone());
    assert_eq!(insert(&mut table, at(3), records[16].clone()), Inserted::Waiting { check });
    assert_eq!(insert(&mut table, at(4), records[17].clone()), Inserted::Waiting { check: None });
    assert!(matches!(insert(&mut table, at(63), records[18].clone()), Inserted::Waiting { check: Some(_) }));
}

#[test]
fn a_node_that_is_gone_makes_room_for_the_next_newcomer() {
    let (mut table, records) = (table(), far().take(17).collect::<Vec<_>>());
    records[..16].iter().for_each(|record| drop(insert(&mut table, at(1), record.clone())));
    let gone = records[5].node();
    table.set_connected(&gone, false);
    assert!((0..3).all(|_| !table.failed(&gone)), "nobody waits for its place");
    assert!(table.get(&gone).is_some(), "until then it stays known");
    assert_eq!(insert(&mut table, at(2), records[16].clone()), Inserted::Added);
    assert!(table.get(&gone).is_none());
}

#[test]
fn a_newer_record_replaces_an_older_one_but_not_the_other_way_round() {
    let mut table = table();
    let versions = [1, 3, 2].map(|seq| record_at(7, seq, [127, 0, 0, 1]));
    assert_eq!(insert(&mut table, at(1), versions[0].clone()), Inserted::Added);
    for record in &versions[1..] {
        assert_eq!(insert(&mut table, at(1), record.clone()), Inserted::Updated);
    }
    assert_eq!(table.entries().map(|entry| entry.record.seq()).collect::<Vec<_>>(), [3]);
}

#[test]
fn one_subnet_gets_two_places_in_a_bucket_and_ten_in_the_table() {
    let mut table = table();
    let records = (0..200).map(|number| record_at(number, 1, [8, 8, 8, number as u8]));
    records.for_each(|record| drop(insert(&mut table, at(1), record)));
    assert!(table.buckets.values().all(|bucket| bucket.entries.len() <= 2));
    assert_eq!(table.len(), 10);
    assert_eq!(
        insert(&mut table, at(1), record_at(500, 1, [8, 8, 9, 1])),
        Inserted::Added,
        "its neighbour is another one's"
    );
    // Whoever moves into a subnet that is full keeps the record that it had.
    assert_eq!(insert(&mut table, at(1), record_at(500, 2, [8, 8, 8, 1])), Inserted::Updated);
    assert_eq!(table.entries().filter(|entry| entry.record.seq() == 2).count(), 0);
}

#[test]
fn a_node_that_comes_back_from_another_of_its_addresses_counts_there() {
    let mut table = table();
    let record = record_at(1, 1, [127, 0, 0, 1]);
    let subnets = |table: &Table| table.groups.iter().map(|(group, nodes)| (*group, *nodes)).collect::<Vec<_>>();
    for ip in [[8, 8, 8, 1], [8, 8, 9, 1], [8, 8, 9, 2]] {
        table.insert(at(1), record.clone(), ip.into());
        assert_eq!(subnets(&table), [(Group::of(ip.into()), 1)]);
    }
    table.insert(at(2), record_at(1, 0, [8, 8, 7, 1]), [8, 8, 7, 1].into());
    assert_eq!(subnets(&table), [(Group::of([8, 8, 9, 1].into()), 1)], "an older record moves nobody");
    for (policy, count) in [(AddressPolicy::Loopback, 0), (AddressPolicy::Public, 1)] {
        let mut table = Table::new(DhtKey::from_bytes([0; 32]), policy, Budget::default());
        table.insert(at(1), record.clone(), [127, 0, 0, 1].into());
        assert_eq!(table.groups.len(), count, "{policy:?}");
    }
}

#[test]
fn void_records_of_absent_nodes_are_forgotten() {
    let mut table = table();
    let records: Vec<_> = far().take(18).collect();
    records.iter().for_each(|record| drop(insert(&mut table, at(1), record.clone())));
    table.set_connected(&records[0].node(), false);
    assert!(!table.prune(WALL + Duration::from_hours(48)));
    assert!(table.prune(WALL + Duration::from_hours(49)));
    assert!(table.get(&records[0].node()).is_none());
    assert_eq!(table.len(), 15, "those who waited had void records too");
}

#[test]
fn an_exhausted_budget_refuses_newcomers_and_gets_back_what_it_gave() {
    let budget = Budget::new(3 * ENTRY_BYTES);
    let mut table = Table::new(DhtKey::from_bytes([0; 32]), AddressPolicy::Loopback, budget.clone());
    let inserted: Vec<_> = RECORDS[..5].iter().map(|record| insert(&mut table, at(1), record.clone())).collect();
    assert_eq!(inserted[2..4], [Inserted::Added, Inserted::Refused]);
    assert_eq!(insert(&mut table, at(1), RECORDS[0].clone()), Inserted::Updated);
    drop(table);
    assert_eq!(budget.report().resident, 0);
}

#[test]
fn buckets_are_idle_until_something_near_is_looked_up() {
    let mut table = table();
    assert_eq!(table.idle(at(0)), [], "nothing to refresh in an empty table");
    let nearest = RECORDS.iter().min_by_key(|record| record.key()).expect("300 of them");
    insert(&mut table, at(1), nearest.clone());
    let bucket = table.own.distance(&nearest.key()).bucket().expect("not ourselves");
    assert_eq!(table.idle(at(1)), (bucket..=255).rev().collect::<Vec<_>>());
    table.touch(at(1), &nearest.key());
    assert_eq!(table.idle(at(600)).last(), Some(&(bucket + 1)));
    assert_eq!(table.idle(at(601)).last(), Some(&bucket));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize),
    Down(usize),
    Fail(usize),
    Seen(usize),
    Prune,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..RECORDS.len();
    prop_oneof![
        6 => node.clone().prop_map(Step::Insert),
        2 => node.clone().prop_map(Step::Down),
        4 => node.clone().prop_map(Step::Fail),
        1 => node.prop_map(Step::Seen),
        1 => Just(Step::Prune),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_the_table_keeps_its_shape(steps in prop::collection::vec(step(), 0..600)) {
        let budget = Budget::default();
        let mut table = Table::new(RECORDS[0].key(), AddressPolicy::Loopback, budget.clone());
        for (time, step) in steps.into_iter().enumerate() {
            let now = at(time as u64);
            match step {
                Step::Insert(node) => {
                    let bucket = table.distance(&RECORDS[node].node()).bucket();
                    let kept: Vec<_> = table.entries().filter(|entry| !entry.is_gone()).map(|entry| entry.record.node()).collect();
                    let inserted = insert(&mut table, now, RECORDS[node].clone());
                    prop_assert_eq!(inserted == Inserted::Refused, bucket.is_none(), "only we ourselves are refused");
                    prop_assert!(kept.iter().all(|node| table.get(node).is_some()), "old is good");
                }
                Step::Down(node) => table.set_connected(&RECORDS[node].node(), false),
                Step::Fail(node) => drop(table.failed(&RECORDS[node].node())),
                Step::Seen(node) => table.seen(now, &RECORDS[node].node()),
                Step::Prune => prop_assert!(!table.prune(WALL), "all are current"),
            }
        }
        let mut all = Vec::new();
        for (number, bucket) in &table.buckets {
            prop_assert!(bucket.entries.len() <= K && bucket.replacements.len() <= REPLACEMENTS);
            prop_assert!(bucket.replacements.is_empty() || bucket.entries.len() == K, "nobody waits beside a free place");
            prop_assert!(bucket.entries.is_sorted_by_key(|entry| entry.last_seen) || bucket.entries.len() == K);
            for entry in bucket.entries.iter().chain(&bucket.replacements) {
                prop_assert_eq!(table.distance(&entry.record.node()).bucket(), Some(*number));
                all.push(entry.record.node());
            }
        }
        let held = all.len();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), held, "nobody is there twice");
        prop_assert_eq!(budget.report().resident, held * ENTRY_BYTES);
    }

    #[test]
    fn the_closest_are_the_closest(target: [u8; 32], limit in 0_usize..20) {
        let mut table = table();
        RECORDS.iter().for_each(|record| drop(insert(&mut table, at(1), record.clone())));
        let target = DhtKey::from_bytes(target);
        let mut expected: Vec<_> = table.entries().map(|entry| entry.record.clone()).collect();
        expected.sort_by_key(|record| record.key().distance(&target));
        let closest: Vec<_> = table.closest(&target, limit, |_| true).into_iter().cloned().collect();
        prop_assert_eq!(&closest[..], &expected[..limit.min(expected.len())]);
    }
}
