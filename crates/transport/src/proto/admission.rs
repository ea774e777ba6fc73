//! Who may begin a handshake: limits on streams that others open, before a byte of theirs is read.
//!
//! A pure machine that the driver asks for each stream it accepts. TCP has proved that the address is real, so limits by
//! address and by group of addresses mean something, and no cookie is needed (parameters, 2.1).
//!
//! | state of a stream | meaning | next |
//! |---|---|---|
//! | half-open | accepted, the handshake runs | established, ended, evicted by a newcomer |
//! | established | the peer proved itself | ended |

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};
use peerage_core::{CloseReason, LinkId, Timestamp};
use std::collections::BTreeMap;
use thiserror::Error;

/// The limits. Each default names its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Connections in all, both directions, handshakes included. Default 1,024 (our guess: the usual limit of open files of a
    /// process).
    pub max_links: usize,
    /// Handshakes under way that others began. Default 64 (parameters, 2.1).
    pub half_open: usize,
    /// Of these from one address. Default 4 (parameters, 2.1).
    pub half_open_per_ip: usize,
    /// Of these from one group: /24 for IPv4, /48 for IPv6. Default 10 (parameters, 2.1).
    pub half_open_per_group: usize,
    /// Connections from one address that others opened. Default 8 (our guess: a few nodes behind one router).
    pub per_ip: usize,
    /// Connections from one group that others opened. Default 32 (our guess: half of the peers that a node keeps).
    pub per_group: usize,
    /// New streams from one address: this many at once. Default 4 (parameters, 2.1).
    pub burst_per_ip: u32,
    /// New streams from one address: one more after this time. Default 5 s (parameters, 2.1).
    pub refill_per_ip: Duration,
    /// New streams from one group: this many at once. Default 10 (parameters, 2.1).
    pub burst_per_group: u32,
    /// New streams from one group: one more after this time. Default 500 ms (parameters, 2.1: 2 a second).
    pub refill_per_group: Duration,
    /// Whether 127.0.0.0/8 is free of the limits by address and group: for networks on one machine only.
    pub loopback_exempt: bool,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            max_links: 1024,
            half_open: 64,
            half_open_per_ip: 4,
            half_open_per_group: 10,
            per_ip: 8,
            per_group: 32,
            burst_per_ip: 4,
            refill_per_ip: Duration::from_secs(5),
            burst_per_group: 10,
            refill_per_group: Duration::from_millis(500),
            loopback_exempt: false,
        }
    }
}

/// What becomes of a stream that somebody opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it begin its handshake.
    Admit,
    /// Let it begin its handshake, and end this older one, which takes the most crowded group's place, with
    /// [`CloseReason::HalfOpenLimit`].
    Evict(LinkId),
    /// Close it unread.
    Refuse(CloseReason),
}

/// A group of addresses that one party can be expected to hold: /24 for IPv4, /48 for IPv6 (as Bitcoin Core and geth group
/// them, roughly).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The first three bytes.
    V4([u8; 3]),
    /// The first six bytes.
    V6([u8; 6]),
}

impl Group {
    /// The group of an address; an IPv4 address in IPv6 clothes counts as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4([a, b, c]) => write!(f, "{}/24", Ipv4Addr::new(*a, *b, *c, 0)),
            Self::V6(bytes) => {
                let mut octets = [0; 16];
                octets[..6].copy_from_slice(bytes);
                write!(f, "{}/48", Ipv6Addr::from(octets))
            }
        }
    }
}

/// Text that should have been a group of addresses is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a group of addresses is written a.b.c.0/24 or a:b:c::/48")]
pub struct ParseGroupError;

impl FromStr for Group {
    type Err = ParseGroupError;

    fn from_str(text: &str) -> Result<Self, ParseGroupError> {
        let (ip, bits) = text.split_once('/').ok_or(ParseGroupError)?;
        let group = Self::of(ip.parse().map_err(|_| ParseGroupError)?);
        let expected = if matches!(group, Self::V4(_)) { "24" } else { "48" };
        if bits == expected { Ok(group) } else { Err(ParseGroupError) }
    }
}

/// A token bucket on injected time: `burst` at once, one more each `refill`.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When the bucket would be full if nothing were taken any more.
    full_at: Timestamp,
}

impl Bucket {
    /// Takes one, or says that there is none.
    fn take(&mut self, now: Timestamp, burst: u32, refill: Duration) -> bool {
        let full_at = self.full_at.max(now) + refill;
        let fits = full_at.since(now) <= refill * burst;
        if fits {
            self.full_at = full_at;
        }
        fits
    }

    fn is_full(self, now: Timestamp) -> bool {
        self.full_at <= now
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    ip: IpAddr,
    group: Group,
    half_open: bool,
}

/// Addresses whose buckets are remembered at once; then the full ones are forgotten, and if all are in use nobody new is
/// let in until one is. Some 100 B each (our guess: far more than groups of honest newcomers in five seconds).
const MAX_BUCKETS: usize = 4096;

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    /// Streams that others opened and that are not exempt, in the order of their coming.
    streams: BTreeMap<LinkId, Stream>,
    by_ip: BTreeMap<IpAddr, Bucket>,
    by_group: BTreeMap<Group, Bucket>,
}

impl Admission {
    /// Nobody is there yet.
    pub const fn new(config: AdmissionConfig) -> Self {
        Self { config, streams: BTreeMap::new(), by_ip: BTreeMap::new(), by_group: BTreeMap::new() }
    }

    /// Judges a stream from `ip` that would be `link`, while there are `links` connections in all.
    pub fn accept(&mut self, now: Timestamp, link: LinkId, ip: IpAddr, links: usize) -> Verdict {
        let config = self.config;
        if links >= config.max_links {
            return Verdict::Refuse(CloseReason::TooManyPeers);
        }
        let ip = holder(ip.to_canonical());
        if config.loopback_exempt && is_loopback_v4(ip) {
            return Verdict::Admit;
        }
        let group = Group::of(ip);
        if self.count(|stream| stream.ip == ip) >= config.per_ip
            || self.count(|stream| stream.group == group) >= config.per_group
        {
            return Verdict::Refuse(CloseReason::AddressLimit);
        }
        if self.count(|stream| stream.half_open && stream.ip == ip) >= config.half_open_per_ip
            || self.count(|stream| stream.half_open && stream.group == group) >= config.half_open_per_group
        {
            return Verdict::Refuse(CloseReason::HalfOpenLimit);
        }
        if !self.take(now, ip, group) {
            return Verdict::Refuse(CloseReason::TooFast);
        }
        let crowded = self.count(|stream| stream.half_open) >= config.half_open;
        let evicted = if crowded { self.oldest_of_fullest_group() } else { None };
        self.streams.insert(link, Stream { ip, group, half_open: true });
        match evicted {
            Some(oldest) => {
                self.streams.remove(&oldest);
                Verdict::Evict(oldest)
            }
            None => Verdict::Admit,
        }
    }

    /// The peer at the other end proved itself.
    pub fn established(&mut self, link: LinkId) {
        if let Some(stream) = self.streams.get_mut(&link) {
            stream.half_open = false;
        }
    }

    /// The connection is over, however.
    pub fn ended(&mut self, link: LinkId) {
        self.streams.remove(&link);
    }

    fn count(&self, belongs: impl Fn(&Stream) -> bool) -> usize {
        self.streams.values().filter(|stream| belongs(stream)).count()
    }

    fn take(&mut self, now: Timestamp, ip: IpAddr, group: Group) -> bool {
        let config = self.config;
        if self.by_ip.len() >= MAX_BUCKETS {
            self.by_ip.retain(|_, bucket| !bucket.is_full(now));
            self.by_group.retain(|_, bucket| !bucket.is_full(now));
            if self.by_ip.len() >= MAX_BUCKETS {
                return false;
            }
        }
        let fresh = Bucket { full_at: now };
        let by_group = self.by_group.entry(group).or_insert(fresh);
        let by_ip = self.by_ip.entry(ip).or_insert(fresh);
        by_ip.take(now, config.burst_per_ip, config.refill_per_ip)
            && by_group.take(now, config.burst_per_group, config.refill_per_group)
    }

    /// The handshake that has lasted longest in the group that has most of them: a flood evicts itself.
    fn oldest_of_fullest_group(&self) -> Option<LinkId> {
        let mut groups: BTreeMap<Group, (usize, LinkId)> = BTreeMap::new();
        for (link, stream) in self.streams.iter().filter(|(_, stream)| stream.half_open) {
            // Links ascend, so the first of a group is its oldest.
            groups.entry(stream.group).or_insert((0, *link)).0 += 1;
        }
        groups
            .into_values()
            .max_by_key(|(count, oldest)| (*count, core::cmp::Reverse(*oldest)))
            .map(|(_, oldest)| oldest)
    }
}

/// What counts as one address: for IPv6 a whole /64, of which every subscriber has at least one (RFC 6177).
fn holder(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

fn is_loopback_v4(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_loopback())
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            door.knock_and_prove("::ffff:8.8.8.1"),
            Verdict::Refuse(CloseReason::AddressLimit),
            "in other clothes"
        );
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
        assert!(door.admission.by_ip.len() <= MAX_BUCKETS && door.admission.by_group.len() <= MAX_BUCKETS);
        door.now = door.now + Duration::from_secs(60);
        assert_eq!(door.knock("99.0.0.1").1, Verdict::Admit, "time makes room");
    }
}
