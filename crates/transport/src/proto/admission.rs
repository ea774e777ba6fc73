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
use peerage_core::{CloseReason, Doors, LinkId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

use super::peer_manager::{Net, Ranges};

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

/// Token buckets on injected time, one for each key: `burst` at once, one more each `refill`. A key that has none has a full
/// one.
#[derive(Debug)]
struct Buckets<K> {
    burst: u32,
    refill: Duration,
    /// When each bucket would be full if nothing were taken any more.
    full_at: BTreeMap<K, Timestamp>,
    /// The same, the fullest first.
    fullest: BTreeSet<(Timestamp, K)>,
}

impl<K: Copy + Ord> Buckets<K> {
    const fn new(burst: u32, refill: Duration) -> Self {
        Self { burst, refill, full_at: BTreeMap::new(), fullest: BTreeSet::new() }
    }

    /// When the bucket would be full after one is taken, if there is one to take.
    fn after_one(&self, now: Timestamp, key: K) -> Option<Timestamp> {
        let full_at = self.full_at.get(&key).map_or(now, |full_at| now.max(*full_at)) + self.refill;
        (full_at.since(now) <= self.refill * self.burst).then_some(full_at)
    }

    /// Takes one, for which the bucket will be full at `full_at`.
    fn take(&mut self, now: Timestamp, key: K, full_at: Timestamp) {
        if let Some(before) = self.full_at.insert(key, full_at) {
            self.fullest.remove(&(before, key));
        }
        self.fullest.insert((full_at, key));
        // To forget a full bucket changes nothing; else the one goes that has least to forget.
        while let Some(&(full_at, key)) = self.fullest.first()
            && (full_at <= now || self.full_at.len() > MAX_BUCKETS)
        {
            self.fullest.pop_first();
            self.full_at.remove(&key);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    ip: IpAddr,
    group: Group,
    half_open: bool,
}

/// Addresses, and groups, whose buckets are remembered at once; beyond that the fullest is forgotten, so that a flood from
/// many places makes the door less strict with those who knock seldom, and never shuts it. Some 100 B each (our guess: far
/// more than groups of honest newcomers in five seconds).
const MAX_BUCKETS: usize = 4096;

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    /// Streams that others opened and that are not exempt, in the order of their coming.
    streams: BTreeMap<LinkId, Stream>,
    by_ip: Buckets<IpAddr>,
    by_group: Buckets<Group>,
    /// Nobody from here.
    shut: Ranges,
    /// If there are any, nobody but from here.
    open: Option<Ranges>,
}

impl Admission {
    /// Nobody is there yet.
    pub fn new(config: AdmissionConfig) -> Self {
        let by_ip = Buckets::new(config.burst_per_ip, config.refill_per_ip);
        let by_group = Buckets::new(config.burst_per_group, config.refill_per_group);
        Self { config, streams: BTreeMap::new(), by_ip, by_group, shut: Ranges::default(), open: None }
    }

    /// Other ranges from now on from which streams are let in or not; those that stand stay. A range that is none keeps
    /// nobody out and lets nobody in.
    pub fn set_doors(&mut self, doors: &Doors) {
        self.shut = nets(&doors.shut);
        self.open = doors.open.as_deref().map(nets);
    }

    /// Judges a stream from `ip` that would be `link`, while there are `links` connections in all.
    pub fn accept(&mut self, now: Timestamp, link: LinkId, ip: IpAddr, links: usize) -> Verdict {
        let config = self.config;
        if self.shut.contains(ip) || self.open.as_ref().is_some_and(|open| !open.contains(ip)) {
            return Verdict::Refuse(CloseReason::Denied);
        }
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

    /// Takes one from both buckets or from none: an address in a hurry must not spend what its neighbours have, nor a group
    /// fill the table of addresses with those that it turns away.
    fn take(&mut self, now: Timestamp, ip: IpAddr, group: Group) -> bool {
        let (Some(by_group), Some(by_ip)) = (self.by_group.after_one(now, group), self.by_ip.after_one(now, ip)) else {
            return false;
        };
        self.by_group.take(now, group, by_group);
        self.by_ip.take(now, ip, by_ip);
        true
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

/// Those of the ranges that are some.
fn nets(ranges: &[(IpAddr, u8)]) -> Ranges {
    ranges.iter().filter_map(|(ip, bits)| Net::new(*ip, *bits)).collect()
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
mod tests;
