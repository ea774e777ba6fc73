//! The operator's lists: who alone comes in, and who never does.

use core::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};
use peerage_core::NodeId;
use std::collections::BTreeSet;
use thiserror::Error;

/// A range of addresses, as in 192.0.2.0/24 or 2001:db8::/32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    first: IpAddr,
    bits: u8,
}

impl Net {
    /// The addresses whose first `bits` bits are those of `ip`; `None` if an address of its kind has fewer. An IPv4 address
    /// in IPv6 clothes counts as IPv4.
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        let first = match ip.to_canonical() {
            IpAddr::V4(v4) if bits <= 32 => {
                IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) if bits <= 128 => {
                IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into())
            }
            _ => return None,
        };
        Some(Self { first, bits })
    }

    /// The first address, and how many of its bits count.
    pub const fn parts(&self) -> (IpAddr, u8) {
        (self.first, self.bits)
    }

    /// Whether an address lies within.
    pub fn contains(&self, ip: IpAddr) -> bool {
        Self::new(ip, self.bits).is_some_and(|net| net.first == self.first)
    }

    fn last(&self) -> IpAddr {
        let bits = u32::from(self.bits);
        match self.first {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() | u32::MAX.checked_shr(bits).unwrap_or(0)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() | u128::MAX.checked_shr(bits).unwrap_or(0)).into()),
        }
    }
}

/// Many ranges of which one address is looked for often: sorted, none within another, so that a look among thousands costs a
/// dozen comparisons.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// The first and the last address of each. All of IPv4 come before those of IPv6.
    sorted: Vec<(IpAddr, IpAddr)>,
    /// Comparisons so far.
    #[cfg(test)]
    pub(super) compared: core::cell::Cell<u64>,
}

impl Ranges {
    /// Whether an address lies within one of them; an IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let begun = self.sorted.partition_point(|(first, _)| {
            #[cfg(test)]
            self.compared.update(|compared| compared + 1);
            *first <= ip
        });
        begun.checked_sub(1).is_some_and(|at| ip <= self.sorted[at].1)
    }
}

impl FromIterator<Net> for Ranges {
    fn from_iter<I: IntoIterator<Item = Net>>(nets: I) -> Self {
        let mut sorted: Vec<_> = nets.into_iter().map(|net| (net.first, net.last())).collect();
        // Of those that begin alike the widest comes first. Two ranges are apart, or one lies within the other.
        sorted.sort_unstable_by_key(|(first, last)| (*first, core::cmp::Reverse(*last)));
        sorted.dedup_by(|next, before| next.1 <= before.1);
        Self {
            sorted,
            #[cfg(test)]
            compared: core::cell::Cell::new(0),
        }
    }
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An identity.
    Peer(NodeId),
    /// A range of addresses.
    Net(Net),
}

impl Rule {
    /// The range, if it is one.
    pub const fn net(&self) -> Option<&Net> {
        match self {
            Self::Peer(_) => None,
            Self::Net(net) => Some(net),
        }
    }
}

/// One list: as the operator wrote it, and as it is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    lines: Vec<Rule>,
    peers: BTreeSet<NodeId>,
    pub(super) ranges: Ranges,
}

impl Rules {
    pub(super) fn new(lines: Vec<Rule>) -> Self {
        let ids = lines.iter().filter_map(|rule| if let Rule::Peer(id) = rule { Some(*id) } else { None });
        Self { peers: ids.collect(), ranges: lines.iter().filter_map(Rule::net).copied().collect(), lines }
    }

    pub(super) fn lines(&self) -> &[Rule] {
        &self.lines
    }

    /// Whether a line names the peer, or the address at which it is.
    pub(super) fn names(&self, peer: &NodeId, addr: Option<SocketAddr>) -> bool {
        self.peers.contains(peer) || addr.is_some_and(|addr| self.ranges.contains(addr.ip()))
    }
}

/// Text that should have been a line of a list is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a node's identity (64 hexadecimal digits), an address, or a range of addresses as 192.0.2.0/24 is expected")]
pub struct ParseRuleError;

impl FromStr for Rule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Peer(id));
        }
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse::<u8>().map_err(|_| ParseRuleError)?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| ParseRuleError)?;
        let all = if ip.to_canonical().is_ipv4() { 32 } else { 128 };
        Net::new(ip, bits.unwrap_or(all)).map(Self::Net).ok_or(ParseRuleError)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(id) => write!(f, "{id}"),
            Self::Net(net) => write!(f, "{}/{}", net.first, net.bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().expect(text)
    }

    #[test]
    fn a_rule_reads_back_as_it_prints_and_names_what_lies_within() {
        let id = NodeId::from_bytes([7; 32]);
        let lines =
            [("192.0.2.77/24", "192.0.2.0/24"), ("10.0.0.1", "10.0.0.1/32"), ("2001:db8::1/32", "2001:db8::/32")];
        for (text, printed) in lines.into_iter().chain([("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0")]) {
            assert_eq!(rule(text).to_string(), printed);
            assert_eq!(rule(printed), rule(text));
        }
        assert_eq!(rule(&id.to_string()), Rule::Peer(id));
        let list = |text: &str| Rules::new(vec![rule(text)]);
        let names = |text: &str, addr: &str| {
            let (addr, net) = (addr.parse::<SocketAddr>().expect(addr), *rule(text).net().expect("a range"));
            let named = list(text).names(&NodeId::from_bytes([8; 32]), Some(addr));
            assert_eq!(named, net.contains(addr.ip()), "{text} {addr}");
            named
        };
        assert!(names("192.0.2.0/24", "192.0.2.255:1") && !names("192.0.2.0/24", "192.0.3.0:1"));
        assert!(names("192.0.2.0/24", "[::ffff:192.0.2.9]:1"), "in other clothes");
        assert!(names("0.0.0.0/0", "8.8.8.8:1") && !names("0.0.0.0/0", "[2001:db8::1]:1"));
        assert!(!list("0.0.0.0/0").names(&id, None), "nobody knows where it is");
        assert!(list(&id.to_string()).names(&id, None));
        for text in ["", "10.0.0.0/33", "2001:db8::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "x"] {
            assert_eq!(text.parse::<Rule>(), Err(ParseRuleError), "{text}");
        }
    }

    #[test]
    fn a_list_of_thousands_is_looked_at_by_halves_whatever_lies_within_what() {
        let mut nets: Vec<Net> = ["10.0.0.0/8", "10.7.0.0/16", "10.7.0.0/16", "255.0.0.0/8", "2001:db8::/32", "::/96"]
            .map(|text| *rule(text).net().expect("a range"))
            .to_vec();
        nets.extend((0..4096u32).map(|n| Net::new(IpAddr::V4((0x2000_0000 + 2 * n).into()), 32).expect("a range")));
        let ranges: Ranges = nets.iter().copied().collect();
        let mut last = 7u32;
        let probes = core::iter::repeat_with(|| {
            last = last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            last
        });
        let v4 = probes.take(2000).flat_map(|n| [n, 0x2000_0000 + n % 10_000, 0x0a00_0000 | n >> 8]);
        let v4 = v4.map(|bits| IpAddr::V4(bits.into()));
        let v6 = ["2001:db8::1", "2001:db9::", "::1", "::ffff:10.1.2.3", "::"].map(|ip| ip.parse().expect(ip));
        for ip in v4.chain(v6) {
            ranges.compared.set(0);
            assert_eq!(ranges.contains(ip), nets.iter().any(|net| net.contains(ip)), "{ip}");
            assert!(ranges.compared.get() <= 14, "{ip}: {} comparisons", ranges.compared.get());
        }
        assert!(!Ranges::default().contains([10, 0, 0, 1].into()));
    }
}
