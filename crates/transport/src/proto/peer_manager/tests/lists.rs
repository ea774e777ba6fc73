//! What the operator says while the node runs.

use super::*;

fn rule(text: &str) -> Rule {
    text.parse().expect(text)
}

#[test]
fn who_is_on_the_list_of_the_unwanted_is_neither_let_in_nor_dialled_whoever_else_names_it() {
    let mut bench = Bench::new(|config| {
        config.deny = vec![Rule::Peer(id(1)), rule("30.7.0.0/16")];
        config.trusted = vec![id(1)];
    });
    let (link, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Close { link, reason: CloseReason::Denied }]);
    let (link, done) = bench.up_at(2, false, "30.7.9.9:1".parse().expect("an address"));
    assert_eq!(done, [Outlet::Close { link, reason: CloseReason::Denied }]);
    let (link, done) = bench.up_at(3, false, "30.8.9.9:1".parse().expect("an address"));
    assert_eq!(done, [Outlet::Admit(link)]);
    bench.order(PeerCommand::Want(Want::Now { peer: id(1), addrs: vec![addr(1)] }));
    assert_eq!(bench.told.last(), Some(&PeerEvent::Unmet { peer: id(1), why: Unmet::Denied }));
    assert_eq!(dials(&bench.pass(TICK)).iter().filter(|to| **to == addr(1)).count(), 0);
}

#[test]
fn a_list_of_the_wanted_keeps_out_everybody_else_except_whom_the_operator_named_otherwise() {
    let mut bench = Bench::new(|config| {
        config.allow = vec![Rule::Peer(id(1))];
        config.reserved = vec![known(2)];
    });
    for (number, admitted) in [(1, true), (2, true), (3, false)] {
        let (link, done) = bench.up(number, false);
        let denied = Outlet::Close { link, reason: CloseReason::Denied };
        assert_eq!(done, [if admitted { Outlet::Admit(link) } else { denied }], "{number}");
    }
    bench.order(PeerCommand::Allow(Vec::new()));
    let (link, done) = bench.up(3, false);
    assert_eq!(done, [Outlet::Admit(link)], "without a list all may come");
    assert_eq!(
        bench.order(PeerCommand::Deny(vec![Rule::Peer(id(3))])),
        [Outlet::Close { link, reason: CloseReason::Denied }]
    );
}

#[test]
fn a_ban_by_hand_takes_effect_at_once_and_ends_when_it_is_lifted() {
    let mut bench = Bench::new(|config| config.reserved = vec![known(2)]);
    let (first, _) = bench.up(1, false);
    let (reserved, _) = bench.up(2, false);
    for (subject, link) in [(1, first), (2, reserved)] {
        let ban = PeerCommand::Ban { subject: Subject::Peer(id(subject)), lasting: Duration::from_secs(60) };
        let closed = Outlet::Close { link, reason: CloseReason::Banned };
        assert_eq!(bench.order(ban), if subject == 1 { vec![closed] } else { vec![] }, "who is reserved is not banned");
    }
    assert!(matches!(bench.told.last(), Some(PeerEvent::Bans(bans)) if bans.len() == 2));
    let (link, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Close { link, reason: CloseReason::Banned }]);
    bench.order(PeerCommand::Unban(Subject::Peer(id(1))));
    let (link, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Admit(link)]);
}

#[test]
fn peers_are_reserved_and_released_while_the_node_runs() {
    let mut bench = Bench::new(|config| config.target_outbound = 0);
    bench.order(PeerCommand::Reserve(known(1)));
    assert_eq!(dials(&bench.pass(TICK)), [addr(1)]);
    bench.dial_fails(1, CloseReason::DialRefused);
    assert_eq!(dials(&bench.pass(Duration::from_secs(2))), [addr(1)], "again and again");
    bench.order(PeerCommand::Release(id(1)));
    bench.dial_fails(1, CloseReason::DialRefused);
    let dials = dials(&bench.pass(Duration::from_secs(600))).len();
    assert!(dials <= 10, "nobody wants it any more; at most it is tried out like others: {dials} dials in ten minutes");
}

#[test]
fn the_longest_list_makes_a_look_at_the_whole_book_no_more_than_a_dozen_comparisons_for_each_address() {
    let lines = |first: u32| (first..first + 4096).map(|n| Net::new(IpAddr::V4((2 * n).into()), 32).map(Rule::Net));
    let mut bench = Bench::new(|config| {
        config.addresses = AddressPolicy::Public;
        config.deny = lines(0x4200_0000).collect::<Option<_>>().expect("ranges");
    });
    for n in 0..4000u32 {
        let addrs = vec![SocketAddr::from(([30 + (n / 250) as u8, (n % 250) as u8, 1, 1], 4000))];
        let peer = NodeId::from_bytes(core::array::from_fn(|at| (n >> (8 * (at % 2))) as u8));
        let source = None;
        bench.order(PeerCommand::Want(Want::Candidate { peer, addrs, source }));
    }
    let (known, _) = bench.manager.book_sizes();
    let known = known as u64;
    bench.manager.deny.ranges.compared.set(0);
    assert_eq!(dials(&bench.pass(Duration::ZERO)).len(), 8, "it looked for some to keep");
    let compared = bench.manager.deny.ranges.compared.get();
    println!("{known} peers, {compared} comparisons; line by line there were {}", known * 4096);
    assert!(known > 200 && compared <= (known + 8) * 13, "{compared} for {known}");

    // Nor does what peers say each moment cost anything: the doors are told anew only when one of them turns.
    bench.doors = Doors::default();
    bench.order(PeerCommand::Report { peer: id(1), fault: Fault::UnansweredRequest });
    assert_eq!(bench.doors, Doors::default());
}

#[test]
fn whom_an_address_alone_keeps_out_is_told_to_whoever_opens_the_door() {
    let range = |text: &str| rule(text).net().expect("a range").parts();
    let mut bench = Bench::new(|config| config.deny = vec![Rule::Peer(id(1)), rule("30.7.0.0/16")]);
    bench.drain();
    assert_eq!(bench.doors, Doors { shut: vec![range("30.7.0.0/16")], open: None });
    bench.order(PeerCommand::Allow(vec![rule("40.7.0.0/16"), rule("2001:db8::/32")]));
    let open = Some(vec![range("40.7.0.0/16"), range("2001:db8::/32")]);
    assert_eq!(bench.doors, Doors { shut: vec![range("30.7.0.0/16")], open });

    // As soon as somebody is let in by its name, the address alone decides nothing: it may come from anywhere.
    let reserve = (PeerCommand::Reserve(known(2)), PeerCommand::Release(id(2)));
    let trust = (PeerCommand::Trust(id(3), true), PeerCommand::Trust(id(3), false));
    for (name, forget) in [reserve, trust] {
        bench.order(name);
        assert_eq!(bench.doors.open, None);
        bench.order(forget);
        assert!(bench.doors.open.is_some());
    }
    bench.order(PeerCommand::Allow(vec![rule("40.7.0.0/16"), Rule::Peer(id(4))]));
    assert_eq!(bench.doors.open, None);
    bench.order(PeerCommand::Deny(Vec::new()));
    assert_eq!(bench.doors, Doors::default());
}

#[test]
fn bans_and_their_end_are_told_with_who_decided() {
    let mut bench = Bench::new(|_| {});
    let told = |bench: &mut Bench, command| {
        bench.told.clear();
        bench.order(command);
        bench.told.clone()
    };
    let (subject, lasting) = (Subject::Peer(id(1)), Duration::from_secs(60));
    let until = bench.now.wall + lasting;
    let first = told(&mut bench, PeerCommand::Ban { subject, lasting });
    assert_eq!(first[0], PeerEvent::Banned { subject, until, by_hand: true });
    assert_eq!(
        told(&mut bench, PeerCommand::Unban(subject)),
        [PeerEvent::Unbanned { subject }, PeerEvent::Bans(vec![])]
    );
    assert_eq!(told(&mut bench, PeerCommand::Unban(subject)), [], "nobody was banned");
    let fault = PeerCommand::Report { peer: id(2), fault: Fault::InvalidBlock };
    let subject = Subject::Peer(id(2));
    let banned =
        |event: &PeerEvent| matches!(event, PeerEvent::Banned { subject: of, by_hand: false, .. } if *of == subject);
    assert!(told(&mut bench, fault).iter().any(banned));
}
