use super::*;

struct Door {
    admission: Admission,
    now: Timestamp,
    next: u64,
}

impl Door {
    fn new(change: impl FnOnce(&mut AdmissionConfig)) -> Self {
        let mut config = AdmissionConfig::default();
        change(&mut config);
        Self { admission: Admission::new(config), now: Timestamp::ZERO, next: 0 }
    }

    fn knock(&mut self, ip: &str) -> (LinkId, Verdict) {
        self.next += 1;
        let link = LinkId(self.next);
        let links = self.admission.streams.len();
        (link, self.admission.accept(self.now, link, ip.parse().expect(ip), links))
    }

    fn knock_and_prove(&mut self, ip: &str) -> Verdict {
        let (link, verdict) = self.knock(ip);
        self.admission.established(link);
        verdict
    }
}

#[test]
fn a_group_reads_back_what_it_prints() {
    for text in ["8.8.8.0/24", "2001:db8:1::/48"] {
        assert_eq!(text.parse::<Group>().map(|group| group.to_string()), Ok(text.to_owned()));
    }
    for text in ["8.8.8.0", "8.8.8.0/48", "x/24", ""] {
        assert_eq!(text.parse::<Group>(), Err(ParseGroupError), "{text}");
    }
}

#[test]
fn one_address_may_knock_four_times_at_once_and_then_every_five_seconds() {
    let mut door = Door::new(|_| ());
    for _ in 0..4 {
        assert_eq!(door.knock_and_prove("8.8.8.8"), Verdict::Admit);
    }
    assert_eq!(door.knock_and_prove("8.8.8.8"), Verdict::Refuse(CloseReason::TooFast));
    assert_eq!(door.knock_and_prove("9.9.9.9"), Verdict::Admit, "others are not concerned");
    door.now = door.now + Duration::from_secs(5);
    assert_eq!(door.knock_and_prove("8.8.8.8"), Verdict::Admit);
    assert_eq!(door.knock_and_prove("8.8.8.8"), Verdict::Refuse(CloseReason::TooFast));
}

#[test]
fn an_address_holds_eight_connections_and_its_group_thirty_two_whatever_its_patience() {
    let mut door = Door::new(|_| ());
    let mut admitted = 0;
    for knock in 0..200 {
        door.now = door.now + Duration::from_secs(10);
        let verdict = door.knock_and_prove("8.8.8.8");
        admitted += usize::from(verdict == Verdict::Admit);
        assert!(knock < 8 || verdict == Verdict::Refuse(CloseReason::AddressLimit), "{knock}: {verdict:?}");
    }
    assert_eq!(admitted, 8);
    for host in 0..200 {
        door.now = door.now + Duration::from_secs(10);
        admitted += usize::from(door.knock_and_prove(&format!("8.8.8.{host}")) == Verdict::Admit);
    }
    assert_eq!(admitted, 32);
    assert_eq!(door.knock_and_prove("::ffff:8.8.8.1"), Verdict::Refuse(CloseReason::AddressLimit), "in other clothes");
}

#[test]
fn a_whole_64_of_ipv6_counts_as_one_address() {
    let mut door = Door::new(|_| ());
    for host in 1..=4 {
        assert_eq!(door.knock_and_prove(&format!("2001:db8::{host}")), Verdict::Admit);
    }
    assert_eq!(door.knock_and_prove("2001:db8::99"), Verdict::Refuse(CloseReason::TooFast));
    assert_eq!(door.knock_and_prove("2001:db8:0:1::1"), Verdict::Admit, "another subscriber");
}

#[test]
fn handshakes_that_never_end_fill_four_places_of_their_address_and_ten_of_their_group() {
    let mut door = Door::new(|config| config.burst_per_group = 100);
    for _ in 0..4 {
        assert_eq!(door.knock("8.8.8.8").1, Verdict::Admit);
        door.now = door.now + Duration::from_secs(5);
    }
    assert_eq!(door.knock("8.8.8.8").1, Verdict::Refuse(CloseReason::HalfOpenLimit));
    for host in 10..16 {
        assert_eq!(door.knock(&format!("8.8.8.{host}")).1, Verdict::Admit);
    }
    assert_eq!(door.knock("8.8.8.99").1, Verdict::Refuse(CloseReason::HalfOpenLimit));
}

#[test]
fn a_flood_of_half_open_handshakes_evicts_itself_and_not_the_lonely_newcomer() {
    let mut door = Door::new(|config| config.half_open = 20);
    let (lonely, verdict) = door.knock("1.2.3.4");
    assert_eq!(verdict, Verdict::Admit);
    let mut evicted = Vec::new();
    for group in 0..10 {
        for host in 0..9 {
            match door.knock(&format!("20.0.{group}.{host}")).1 {
                Verdict::Evict(link) => evicted.push(link),
                Verdict::Admit => {}
                Verdict::Refuse(reason) => panic!("refused: {reason}"),
            }
        }
    }
    assert_eq!(evicted.len(), 90 + 1 - 20);
    assert!(!evicted.contains(&lonely));
}

#[test]
fn a_network_on_one_machine_may_lift_the_limits_for_loopback_but_not_the_one_on_all() {
    let mut door = Door::new(|config| config.loopback_exempt = true);
    for _ in 0..100 {
        assert_eq!(door.knock("127.0.0.1").1, Verdict::Admit);
    }
    let verdict = door.admission.accept(door.now, LinkId(1000), [127, 0, 0, 1].into(), 1024);
    assert_eq!(verdict, Verdict::Refuse(CloseReason::TooManyPeers));
    let mut strict = Door::new(|_| ());
    for _ in 0..4 {
        strict.knock("127.0.0.1");
    }
    assert_eq!(strict.knock("127.0.0.1").1, Verdict::Refuse(CloseReason::HalfOpenLimit), "limits hold by default");
}

#[test]
fn what_is_remembered_of_strangers_is_bounded() {
    let mut door = Door::new(|config| {
        config.max_links = usize::MAX;
        config.per_group = usize::MAX;
        config.half_open_per_group = usize::MAX;
        config.burst_per_group = 1000;
    });
    for host in 0..2 * MAX_BUCKETS {
        door.now = door.now + Duration::from_millis(1);
        let (link, _) = door.knock(&format!("10.0.{}.{}", host / 250, host % 250));
        door.admission.ended(link);
    }
    assert!(door.admission.by_ip.full_at.len() <= MAX_BUCKETS && door.admission.by_group.full_at.len() <= MAX_BUCKETS);
    door.now = door.now + Duration::from_secs(60);
    assert_eq!(door.knock("99.0.0.1").1, Verdict::Admit, "time makes room");
}

/// A stream a millisecond, each closed at once, from an address that was never seen; after `settled` of them an honest
/// newcomer every thousandth. How many of the honest were turned away.
fn honest_refused(streams: u64, settled: u64, flood: impl Fn(u64) -> String) -> Vec<Verdict> {
    let mut door = Door::new(|_| ());
    let mut refused = Vec::new();
    for number in 0..streams {
        door.now = door.now + Duration::from_millis(1);
        let (link, _) = door.knock(&flood(number));
        door.admission.ended(link);
        if number > settled && number % 1000 == 0 {
            let (link, verdict) = door.knock(&format!("{}.{}.3.4", 20 + number / 5000, number / 1000 % 200));
            door.admission.ended(link);
            refused.extend((verdict != Verdict::Admit).then_some(verdict));
        }
        let admission = &door.admission;
        assert!(admission.by_ip.full_at.len() <= MAX_BUCKETS && admission.by_group.full_at.len() <= MAX_BUCKETS);
    }
    refused
}

#[test]
fn one_subscriber_with_all_its_networks_of_ipv6_locks_nobody_out() {
    assert_eq!(honest_refused(65_536, 6000, |number| format!("2001:db8:1:{number:x}::1")), []);
}

#[test]
fn nor_does_a_provider_with_all_its_subscribers() {
    assert_eq!(honest_refused(65_536, 6000, |number| format!("2001:db8:{number:x}::1")), []);
}

#[test]
fn nor_does_a_botnet_that_spends_all_that_each_of_its_addresses_has() {
    // Four streams from each address, so that no bucket is full again soon.
    let bot =
        |number: u64| format!("{}.{}.{}.9", 100 + (number / 4) / 65_536, number / 4 / 256 % 256, number / 4 % 256);
    assert_eq!(honest_refused(100_000, 20_000, bot), []);
}

#[test]
fn a_stream_that_its_group_refuses_leaves_nothing_behind() {
    let mut door = Door::new(|_| ());
    for number in 0..100 {
        let (link, verdict) = door.knock(&format!("2001:db8:1:{number:x}::1"));
        door.admission.ended(link);
        assert_eq!(verdict == Verdict::Admit, number < 10, "{number}: {verdict:?}");
    }
    assert_eq!(door.admission.by_ip.full_at.len(), 10);
}

#[test]
fn an_address_in_a_hurry_does_not_spend_what_its_neighbours_have() {
    let mut door = Door::new(|_| ());
    for _ in 0..100 {
        let (link, _) = door.knock("8.8.8.8");
        door.admission.ended(link);
    }
    for host in 10..16 {
        assert_eq!(door.knock_and_prove(&format!("8.8.8.{host}")), Verdict::Admit, "{host}");
    }
    assert_eq!(door.knock_and_prove("8.8.8.16"), Verdict::Refuse(CloseReason::TooFast), "ten of a group at once");
}
