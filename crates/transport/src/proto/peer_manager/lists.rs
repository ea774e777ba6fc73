//! The operator's lists: who alone comes in, and who never does.

use core::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};
use peerage_core::NodeId;
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

    /// Whether this names the peer, or the address at which it is.
    pub fn names(&self, peer: &NodeId, addr: Option<SocketAddr>) -> bool {
        match self {
            Self::Peer(id) => id == peer,
            Self::Net(net) => addr.is_some_and(|addr| net.contains(addr.ip())),
        }
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
        let names = |text: &str, addr: &str| rule(text).names(&id, Some(addr.parse().expect(addr)));
        assert!(names("192.0.2.0/24", "192.0.2.255:1") && !names("192.0.2.0/24", "192.0.3.0:1"));
        assert!(names("192.0.2.0/24", "[::ffff:192.0.2.9]:1"), "in other clothes");
        assert!(names("0.0.0.0/0", "8.8.8.8:1") && !names("0.0.0.0/0", "[2001:db8::1]:1"));
        assert!(!rule("0.0.0.0/0").names(&id, None), "nobody knows where it is");
        for text in ["", "10.0.0.0/33", "2001:db8::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "x"] {
            assert_eq!(text.parse::<Rule>(), Err(ParseRuleError), "{text}");
        }
    }
}
