//! Whom the manager dials, at which of several addresses, and which of those stays.

use super::*;
use peerage_core::{Class, Command, Layer, Message};

/// An address in the `group`-th /16 from 30.0.0.0 on.
fn at(group: u8, host: u8) -> SocketAddr {
    ([30, group, 0, host], 4000).into()
}

fn public(change: impl FnOnce(&mut PeerManagerConfig)) -> Bench {
    Bench::new(|config| {
        config.addresses = AddressPolicy::Public;
        change(config);
    })
}

fn wish(number: u8, addrs: &[SocketAddr]) -> PeerCommand {
    PeerCommand::Want(Want::Now { peer: id(number), addrs: addrs.to_vec() })
}

fn hearsay(number: u8, addrs: &[SocketAddr]) -> PeerCommand {
    PeerCommand::Want(Want::Candidate { peer: id(number), addrs: addrs.to_vec(), source: None })
}

/// Dials until there is one, for a time that no backoff reaches.
fn next_dial(bench: &mut Bench) -> SocketAddr {
    for _ in 0..600 {
        if let [first, ..] = dials(&bench.pass(TICK))[..] {
            return first;
        }
    }
    panic!("nobody was dialled in three minutes");
}

fn fails(bench: &mut Bench, number: u8, addr: SocketAddr) {
    let closed = Closed::by_network(CloseReason::DialRefused);
    bench.manager.handle_network(bench.now, NetworkEvent::DialFailed { addr, expected: Some(id(number)), closed });
}

#[test]
fn peers_of_one_group_that_somebody_wanted_do_not_take_the_places_of_those_to_be_kept() {
    let mut bench = public(|_| ());
    for number in 10..18 {
        assert_eq!(dials(&bench.order(wish(number, &[at(7, number)]))), [at(7, number)]);
        bench.up_at(number, true, at(7, number));
    }
    for number in 30..40 {
        bench.order(hearsay(number, &[at(number, 1)]));
    }
    assert_eq!(dials(&bench.pass(TICK)).len(), 7, "one of eight places is taken");
    bench.pass(TRANSIENT_KEEP + Duration::from_secs(5));
    let left = bench
        .manager
        .peers()
        .filter(|peer| NetGroup::of(peer.info.remote, AddressPolicy::Public) == NetGroup::V4([30, 7]));
    assert_eq!(left.count(), 1, "the others were wanted for a moment");
}

#[test]
fn whoever_was_wanted_for_a_moment_stays_when_a_place_gets_free() {
    let mut bench = public(|config| config.target_outbound = 1);
    let (kept, _) = bench.up_at(10, true, at(10, 1));
    bench.order(wish(11, &[at(11, 1)]));
    bench.up_at(11, true, at(11, 1));
    assert!(bench.manager.peer(&id(11)).is_some_and(|peer| peer.transient));
    bench.down(kept);
    let done = bench.pass(TRANSIENT_KEEP + Duration::from_secs(60));
    assert_eq!(done, [], "nobody else is dialled, and nobody goes");
    assert!(bench.manager.peer(&id(11)).is_some_and(|peer| !peer.transient));
}

#[test]
fn after_a_connection_that_lasted_the_next_dial_goes_where_it_stood_whatever_others_tell() {
    let mut bench = public(|config| config.target_outbound = 1);
    bench.order(hearsay(9, &[at(1, 1)]));
    assert_eq!(next_dial(&mut bench), at(1, 1));
    let (link, _) = bench.up_told(9, true, at(1, 1), &[at(4, 4)]);
    bench.order(hearsay(9, &[at(2, 2), at(3, 3)]));
    bench.pass(LASTING);
    bench.down(link);
    assert_eq!(next_dial(&mut bench), at(1, 1));
    fails(&mut bench, 9, at(1, 1));
    assert_ne!(next_dial(&mut bench), at(1, 1), "it may have moved");
}

#[test]
fn whoever_comes_and_goes_is_not_worse_for_it() {
    let mut bench = public(|config| config.target_outbound = 1);
    bench.order(hearsay(9, &[at(1, 1), at(2, 2)]));
    for _ in 0..4 {
        let (link, _) = bench.up_told(9, false, at(1, 9), &[]);
        bench.down(link);
    }
    assert_eq!(bench.manager.book.get(&id(9)).map(|entry| entry.failures), Some(0), "no dial failed");
    assert_eq!(next_dial(&mut bench), at(1, 1));
}

#[test]
fn an_address_that_the_operators_list_forbids_does_not_hide_another_that_it_does_not() {
    for (choice, purpose) in
        [(wish(9, &[at(1, 1), at(2, 2)]), "a wish"), (hearsay(9, &[at(1, 1), at(2, 2)]), "hearsay")]
    {
        let mut bench = public(|config| config.deny = vec!["30.1.0.0/16".parse().expect("a rule")]);
        let mut dialled = dials(&bench.order(choice));
        dialled.extend(dials(&bench.pass(TICK)));
        assert_eq!(dialled, [at(2, 2)], "{purpose}");
    }
}

#[test]
fn a_dial_is_begun_once_and_serves_the_most_that_was_asked_of_it() {
    let mut bench = public(|config| config.target_outbound = 1);
    bench.order(hearsay(9, &[at(1, 1)]));
    assert_eq!(dials(&bench.pass(TICK)), [at(1, 1)]);
    assert_eq!(dials(&bench.order(wish(9, &[]))), []);
    bench.order(hearsay(8, &[at(1, 2)]));
    assert_eq!(dials(&bench.pass(TICK)), [], "the one place and the group are spoken for");
    bench.up_at(9, true, at(1, 1));
    assert!(bench.manager.peer(&id(9)).is_some_and(|peer| !peer.transient), "it is there to stay");
}

#[test]
fn a_configured_address_is_dialled_whatever_it_is_and_another_of_that_kind_is_not() {
    let inside: SocketAddr = "10.0.0.1:80".parse().expect("an address");
    let other: SocketAddr = "10.0.0.2:80".parse().expect("an address");
    let mut bench = public(|config| config.seeds = vec![KnownPeer { peer: id(1), addrs: vec![inside] }]);
    assert_eq!(dials(&bench.pass(TICK)), [], "a seed is dialled when somebody wants it");
    assert_eq!(dials(&bench.order(wish(1, &[other, inside]))), [inside]);
    bench.order(wish(2, &[inside]));
    let unmet = PeerEvent::Unmet { peer: id(2), why: Unmet::NoAddress };
    assert_eq!(bench.told, [unmet], "it is configured for the seed alone");

    bench.order(PeerCommand::Seeds(vec![KnownPeer { peer: id(3), addrs: vec![other] }]));
    assert_eq!(dials(&bench.order(wish(3, &[other]))), [other], "another seed");
    bench.order(PeerCommand::Seeds(Vec::new()));
    bench.order(wish(4, &[other]));
    assert_eq!(bench.told.last(), Some(&PeerEvent::Unmet { peer: id(4), why: Unmet::NoAddress }));
}

#[test]
fn whoever_tells_of_many_nodes_at_somebodys_host_has_it_dialled_by_one_at_a_time() {
    let mut bench = public(|config| config.target_outbound = 0);
    let port = |number: u8| SocketAddr::from(([30, 1, 0, 1], 4000 + u16::from(number)));
    assert_eq!(dials(&bench.order(wish(10, &[port(10)]))), [port(10)]);
    assert_eq!(dials(&bench.order(wish(11, &[port(11)]))), []);
    assert_eq!(bench.told, [PeerEvent::Unmet { peer: id(11), why: Unmet::AddressInUse }]);
    assert_eq!(dials(&bench.order(wish(11, &[at(2, 2)]))), [at(2, 2)], "at another host");
    fails(&mut bench, 10, port(10));
    assert_eq!(dials(&bench.order(wish(12, &[port(12)]))), [port(12)]);
}

/// What each dial is to ask.
fn questions(outlets: Vec<Outlet>) -> Vec<Option<Message>> {
    let dials = outlets.into_iter().filter_map(|outlet| match outlet {
        Outlet::Dial { question, .. } => Some(question),
        _ => None,
    });
    dials.collect()
}

#[test]
fn a_question_goes_with_a_dial_by_a_key_also_if_that_had_to_wait_and_with_no_other() {
    let ask = |number: u8, len: usize| {
        let question = Message::new(Command::new(Layer::Application, 0, Class::Signal), vec![number; len]);
        let want = Want::Ask { peer: id(number), addrs: vec![at(number, 1)], question: question.clone() };
        (question, PeerCommand::Want(want))
    };
    let mut bench = public(|config| config.target_outbound = 0);
    let met = |bench: &mut Bench, number: u8| {
        let (link, _) = bench.link_up(number, true, at(number, 1), Vec::new(), Some(DialKey([number; 32])));
        bench.down(link);
    };
    (1..=4).for_each(|number| met(&mut bench, number));
    bench.pass(Duration::from_secs(10));
    let (question, want) = ask(1, 32);
    let again = want.clone();
    assert_eq!(questions(bench.order(want)), [Some(question)]);
    assert_eq!(questions(bench.order(again)), [], "one dial is enough");
    let (_, want) = ask(2, 513);
    assert_eq!(questions(bench.order(want)), [None], "longer than any first words");
    let (_, stranger) = ask(50, 32);
    assert_eq!(questions(bench.order(stranger)), [None], "nobody knows its key");

    for number in 51..56 {
        bench.order(ask(number, 32).1);
    }
    let (question, want) = ask(3, 32);
    assert_eq!(questions(bench.order(want)), [], "all dials are taken");
    fails(&mut bench, 51, at(51, 1));
    assert_eq!(questions(bench.pass(TICK)), [Some(question)], "it was kept meanwhile");
}
