use peerage_core::Seed;

use super::super::table::{BUCKET, NEW_BUCKETS, NEW_PER_SOURCE, TRIED_BUCKETS, TRIED_PER_GROUP};
use super::*;

const WALL: UnixMillis = UnixMillis(1_000_000_000);
const ALL_NEW: usize = NEW_BUCKETS * BUCKET;
const ALL_TRIED: usize = TRIED_BUCKETS * BUCKET;

fn book() -> Book {
    Book::new(Seed::from_u64(11).hasher("book"), AddressPolicy::Public)
}

fn peer(number: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// A public address in the `group`-th /16.
fn addr(group: u16, host: u16) -> SocketAddr {
    let ([a, b], [c, d]) = (group.to_be_bytes(), host.to_be_bytes());
    ([11 + a, b, c, d], 4000).into()
}

fn ip(group: u16, host: u16) -> Option<IpAddr> {
    Some(addr(group, host).ip())
}

/// Who has a place of its own: nobody else can take it.
fn placed(book: &Book, peer: u32) -> bool {
    book.get(&self::peer(peer)).is_some_and(|entry| entry.place != Place::Loose)
}

#[test]
fn whoever_floods_the_book_from_one_group_of_addresses_fills_a_sixteenth_of_it() {
    let mut book = book();
    for number in 0..100_000 {
        // A hundred thousand identities at addresses all over the world, told by the hosts of one /16.
        book.hear(WALL, peer(number), [addr((number % 2048) as u16, (number / 2048) as u16)], ip(900, number as u16));
    }
    book.check();
    let (new, tried) = book.sizes();
    assert_eq!((ALL_NEW, BUCKET * NEW_PER_SOURCE, tried), (4096, 256, 0));
    assert!(new <= 256, "{new} of {ALL_NEW} places");
    assert!(book.iter().count() <= 256 + MAX_LOOSE);

    // Told from elsewhere, honest peers still find places, nearly as many as without the flood.
    let honest = |book: &mut Book| {
        for number in 1_000_000..1_001_000 {
            book.hear(WALL, peer(number), [addr((number % 500) as u16, 7)], ip((1000 + number % 64) as u16, 1));
        }
        (1_000_000..1_001_000).filter(|number| placed(book, *number)).count()
    };
    let (with, without) = (honest(&mut book), honest(&mut self::book()));
    println!(
        "the flood has {new} of {ALL_NEW} places; {with} of 1000 honest peers found one, {without} without the flood"
    );
    assert!(with * 10 > without * 9 && without > 800, "{with} and {without}");
    book.check();
}

#[test]
fn hearsay_never_displaces_hearsay_that_may_be_good_but_what_is_of_no_use_goes() {
    let mut book = book();
    book.hear(WALL, peer(1), [addr(1, 1)], ip(900, 1));
    for number in 2..50_000 {
        book.hear(WALL, peer(number), [addr(1, number as u16)], ip(900, 1));
    }
    assert!(placed(&book, 1), "it was there first");
    let mut dice = Seed::from_u64(1).stream("dice");
    for _ in 0..RETRIES {
        book.get_mut(&peer(1)).expect("it is known").dial_failed(Timestamp::ZERO, &mut dice);
    }
    for number in 50_000..100_000 {
        book.hear(WALL, peer(number), [addr(1, number as u16)], ip(900, 1));
    }
    assert!(!placed(&book, 1), "three dials found nobody");
    book.check();
}

#[test]
fn one_group_of_addresses_gets_a_thirty_second_of_what_our_dials_reached_however_many_nodes_it_runs() {
    let mut book = book();
    for number in 0..20_000 {
        book.hear(WALL, peer(number), [addr(7, number as u16)], ip(7, 1));
        book.reached(WALL, peer(number), addr(7, number as u16));
        book.check();
    }
    let (_, tried) = book.sizes();
    println!("the group has {tried} of {ALL_TRIED} places");
    assert_eq!((ALL_TRIED, BUCKET * TRIED_PER_GROUP), (1024, 32));
    assert!(tried <= 32, "{tried}");
}

/// Two peers of one group that have the same place in `tried`.
fn rivals(book: &mut Book) -> (NodeId, NodeId) {
    let group = NetGroup::of(addr(7, 0), AddressPolicy::Public);
    let slot = |number: u32| book.slots.tried_slot(&peer(number), addr(7, number as u16), group);
    let second = (1..).find(|number| slot(*number) == slot(0)).expect("there are 32 places");
    // Between the two so much time that the first has no right to its place any more.
    for (wall, number) in [(WALL, 0), (WALL + REPLACEMENT, second)] {
        book.hear(wall, peer(number), [addr(7, number as u16)], ip(7, 1));
        book.reached(wall, peer(number), addr(7, number as u16));
    }
    (peer(0), peer(second))
}

fn is_in_tried(book: &Book, peer: &NodeId) -> bool {
    matches!(book.get(peer).map(|entry| entry.place), Some(Place::Tried(_)))
}

#[test]
fn whoever_stands_in_tried_is_dialled_before_another_takes_its_place() {
    let mut book = book();
    let (old, new) = rivals(&mut book);
    assert!(is_in_tried(&book, &old) && !is_in_tried(&book, &new));
    assert_eq!(book.challenged(), Some(old));
    let (later, last) = (WALL + REPLACEMENT, WALL + 2 * REPLACEMENT);
    book.reached(later, old, addr(7, 0));
    assert_eq!(book.challenged(), None, "it answers and keeps its place");
    assert!(is_in_tried(&book, &old) && !is_in_tried(&book, &new));

    let at = book.get(&new).expect("it is known").addrs[0];
    book.reached(later, new, at);
    assert_eq!(book.challenged(), None, "who was reached just now has a right to its place");
    book.reached(last, new, at);
    book.settle(|peer| *peer == old);
    assert_eq!(book.challenged(), None, "we are connected to it, which is better than a dial");

    book.reached(last, new, at);
    book.lost(last, &old);
    assert!(!is_in_tried(&book, &old) && is_in_tried(&book, &new), "it is gone, and so the other has its place");
    assert!(book.get(&old).is_some(), "but not forgotten");
    book.check();
}

#[test]
fn what_others_tell_does_not_displace_the_address_that_a_dial_proved() {
    let mut book = book();
    book.hear(WALL, peer(1), [addr(1, 1)], None);
    book.reached(WALL, peer(1), addr(1, 1));
    for host in 2..20 {
        book.hear(WALL, peer(1), [addr(1, host)], ip(9, 9));
    }
    let entry = book.get(&peer(1)).expect("it is known");
    assert_eq!((entry.next_addr(|_| true), entry.addrs.len()), (Some(addr(1, 1)), MAX_ADDRS), "{:?}", entry.addrs);
}

#[test]
fn who_is_dialled_again_is_sought_where_it_was_reached_then_where_the_operator_says_then_where_others_tell() {
    let (proven, configured, told) = (addr(1, 1), [addr(2, 2), addr(3, 3)], addr(4, 4));
    let mut book = book();
    book.configure(peer(1), configured.to_vec());
    book.hear(WALL, peer(1), [told], ip(9, 9));
    for host in 5..20 {
        book.hear(WALL, peer(1), [addr(1, host)], ip(9, 9));
    }
    assert_eq!(book.get(&peer(1)).expect("it is known").addrs[..2], configured, "no flood pushes these out");
    book.hear(WALL, peer(1), [told], ip(9, 9));
    book.reached(WALL, peer(1), proven);
    let mut dice = Seed::from_u64(1).stream("dice");
    let mut dialled = Vec::new();
    for _ in 0..5 {
        let entry = book.get_mut(&peer(1)).expect("it is known");
        dialled.extend(entry.next_addr(|_| true));
        entry.dial_failed(Timestamp::ZERO, &mut dice);
    }
    assert_eq!(dialled, [proven, configured[0], configured[1], told, proven]);
    let entry = book.get(&peer(1)).expect("it is known");
    assert_eq!(entry.next_addr(|addr| addr == told), Some(told), "of those that are permitted");
    assert_eq!(entry.next_addr(|_| false), None);
    book.configure(peer(1), vec![addr(8, 8)]);
    assert_eq!(
        book.get(&peer(1)).expect("it is known").addrs[..2],
        [proven, addr(8, 8)],
        "the operator says otherwise"
    );
}

/// The rules of Bitcoin Core's `IsTerrible`, as far as this book has them.
#[test]
fn a_place_may_be_given_away_once_nobody_tells_of_it_or_dials_to_it_were_in_vain() {
    let now = WALL + HORIZON + HORIZON;
    let ago = |age: Duration| UnixMillis(now.0 - u64::try_from(age.as_millis()).expect("it is long ago"));
    let (never, instant) = (None, Duration::from_millis(1));
    // When it was heard of, when a dial reached it, when it was dialled, failures: may its place be given away?
    let cases = [
        (HORIZON, never, instant * 100_000, 0, false, "told of within a month"),
        (HORIZON + instant, never, instant * 100_000, 0, true, "told of longer ago"),
        (HORIZON + instant, never, JUST_TRIED - instant, 0, false, "a dial is under way"),
        (HORIZON + instant, never, JUST_TRIED, 0, true, "that dial is over"),
        (instant, never, JUST_TRIED, RETRIES - 1, false, "one dial is left"),
        (instant, never, JUST_TRIED, RETRIES, true, "it was never there"),
        (instant, Some(MIN_FAIL), JUST_TRIED, MAX_FAILURES, false, "it was there within a week"),
        (instant, Some(MIN_FAIL + instant), JUST_TRIED, MAX_FAILURES - 1, false, "one dial is left"),
        (instant, Some(MIN_FAIL + instant), JUST_TRIED, MAX_FAILURES, true, "it is gone for good"),
    ];
    for (heard, good, dialled, failures, terrible, why) in cases {
        let last_good = good.map(ago);
        let entry = Entry { heard: ago(heard), last_good, dialled: ago(dialled), failures, ..Entry::default() };
        assert_eq!(entry.is_terrible(now), terrible, "{why}");
        assert!(!Entry { reserved: true, ..entry }.is_terrible(now), "the operator named it: {why}");
    }
    assert!(
        !Entry::default().is_terrible(now),
        "it comes from before this start, and nobody knows when it was heard of"
    );
}

#[test]
fn a_book_comes_back_from_disk_with_everybody_in_the_place_where_they_stood() {
    let mut book = book();
    for number in 0..600 {
        book.hear(WALL, peer(number), [addr(number as u16, 1)], ip(number as u16 % 50, 1));
        if number % 3 == 0 {
            book.reached(WALL, peer(number), addr(number as u16, 1));
        }
    }
    // Some were met elsewhere since, where a lookup wanted them: they stay where they stood.
    for number in (0..600).step_by(4) {
        book.met(&peer(number), addr(number as u16, 2));
    }
    let lines = book.lines(4096, &BTreeSet::new(), |peer| *peer);
    let mut again = self::book();
    lines.iter().for_each(|line| again.restore(UnixMillis(0), line));
    again.check();
    assert_eq!(again.sizes().1, book.sizes().1);
    assert!(again.sizes().0 >= book.sizes().0, "who had no place may find one");
    for (peer, entry) in book.iter().filter(|(_, entry)| entry.place != Place::Loose) {
        let other = again.get(peer).expect("it came back");
        assert_eq!((entry.place, &entry.addrs, entry.last_good), (other.place, &other.addrs, other.last_good));
        assert_eq!((entry.heard, entry.stands_by), (other.heard, other.stands_by));
    }
}

#[test]
fn whoever_takes_a_place_in_tried_is_not_put_out_by_the_one_that_leaves_it() {
    let mut book = book();
    let group = NetGroup::of(addr(7, 0), AddressPolicy::Public);
    let places = |book: &Book, n: u32| {
        let at = addr(7, n as u16);
        (book.slots.tried_slot(&peer(n), at, group), book.slots.new_slot(&peer(n), at, group, group))
    };
    let second = (1..60_000).find(|n| places(&book, *n) == places(&book, 0)).expect("one in 512");
    for (wall, n) in [(WALL, 0), (WALL + REPLACEMENT, second)] {
        book.hear(wall, peer(n), [addr(7, n as u16)], ip(7, 1));
        book.reached(wall, peer(n), addr(7, n as u16));
    }
    let later = WALL + REPLACEMENT + HORIZON + HORIZON;
    book.lost(later, &peer(0));
    book.check();
    assert!(is_in_tried(&book, &peer(second)));
}
