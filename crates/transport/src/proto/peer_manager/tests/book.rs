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
        book.get_mut(&peer(1)).expect("it is known").failed(Timestamp::ZERO, &mut dice);
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
    for number in [0, second] {
        book.hear(WALL, peer(number), [addr(7, number as u16)], ip(7, 1));
        book.reached(WALL, peer(number), addr(7, number as u16));
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
    assert_eq!(book.challenged(|_| false), Some(old));
    book.reached(WALL, old, addr(7, 0));
    assert_eq!(book.challenged(|_| false), None, "it answers and keeps its place");
    assert!(is_in_tried(&book, &old) && !is_in_tried(&book, &new));

    book.reached(WALL, new, book.get(&new).expect("it is known").addrs[0]);
    assert_eq!(book.challenged(|peer| *peer == old), None, "we are connected to it, which is better than a dial");

    book.reached(WALL, new, book.get(&new).expect("it is known").addrs[0]);
    book.lost(WALL, &old);
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
    let addrs = &book.get(&peer(1)).expect("it is known").addrs;
    assert!(addrs.contains(&addr(1, 1)) && addrs.len() == MAX_ADDRS, "{addrs:?}");
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
    let lines = book.lines(4096, |peer| *peer);
    let mut again = self::book();
    lines.iter().for_each(|line| again.restore(UnixMillis(0), line));
    again.check();
    assert_eq!(again.sizes(), book.sizes());
    for (peer, entry) in book.iter().filter(|(_, entry)| entry.place != Place::Loose) {
        let other = again.get(peer).expect("it came back");
        assert_eq!((entry.place, &entry.addrs, entry.last_good), (other.place, &other.addrs, other.last_good));
    }
}
