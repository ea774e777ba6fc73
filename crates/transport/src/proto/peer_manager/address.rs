//! Which addresses may be dialled.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a node may do with addresses that it learned from the network. Configured addresses are always dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressPolicy {
    /// Only public unicast addresses with a port from 1024 up: otherwise peers could aim the node at its own network or
    /// at well-known services.
    #[default]
    Public,
    /// As `Public`, and also 127.0.0.0/8, for networks that live on one machine.
    Loopback,
}

/// The lowest port that is dialled at an address learned from the network: below lie the services of others (mail, web)
/// at which a hostile record could aim us. Bound from RFC 6335, section 6 (system ports end at 1023).
const LOWEST_PORT: u16 = 1024;

impl AddressPolicy {
    /// Whether an address that the network told us may be dialled.
    pub fn allows(self, addr: SocketAddr) -> bool {
        addr.port() >= LOWEST_PORT && self.allows_ip(addr.ip())
    }

    fn allows_ip(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) if ip.is_loopback() => self == Self::Loopback,
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                let carrier_nat = a == 100 && b & 0xc0 == 64; // RFC 6598: 100.64.0.0/10
                let reserved = a == 0 || a >= 240; // RFC 1122, 3.2.1.3; RFC 1112, 4
                !(ip.is_private()
                    || ip.is_link_local()
                    || ip.is_multicast()
                    || ip.is_broadcast()
                    || carrier_nat
                    || reserved)
            }
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(v4) => self.allows_ip(IpAddr::V4(v4)),
                // Whatever lives on this machine, a gateway's loopback does not.
                None if !carried(ip).iter().flatten().all(|v4| Self::Public.allows_ip(IpAddr::V4(*v4))) => false,
                None => !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_local_v6(ip)),
            },
        }
    }
}

/// The addresses that one party can be expected to have many of: what must not fill a table, the outbound connections or the
/// places of a node alone (/16 and /32, as Bitcoin Core groups addresses without a map of providers).
/// An address of IPv6 that leads to one of IPv4 counts as that: otherwise each party has a /32 for the asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NetGroup {
    /// The first two bytes.
    V4([u8; 2]),
    /// The first four bytes.
    V6([u8; 4]),
    /// A port of 127.0.0.0/8, in a network that lives there.
    Local(u16),
    /// Nobody knows.
    Unknown,
}

impl NetGroup {
    pub(super) fn of(addr: SocketAddr, policy: AddressPolicy) -> Self {
        let ip = match addr.ip().to_canonical() {
            IpAddr::V6(ip) => carried(ip)[0].map_or(IpAddr::V6(ip), IpAddr::V4),
            v4 => v4,
        };
        match ip {
            IpAddr::V4(ip) if ip.is_loopback() && policy == AddressPolicy::Loopback => Self::Local(addr.port()),
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self::V4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// The IPv4 addresses inside an address of IPv6 by which gateways and tunnels reach them, the one that is meant first: what is
/// sent there arrives in IPv4.
fn carried(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let octets = ip.octets();
    let at = |from: usize| Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3]);
    match ip.segments() {
        // IPv4-compatible, ::/96 (RFC 4291, 2.5.5.1), among them the loopback and unspecified addresses of IPv6; and NAT64,
        // 64:ff9b::/96 (RFC 6052, 2.1).
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => [Some(at(12)), None],
        // 6to4, 2002::/16 (RFC 3056, 2).
        [0x2002, ..] => [Some(at(2)), None],
        // Teredo, 2001::/32 (RFC 4380, 4): the client behind its router, every bit turned, and the server that is asked to let
        // others through to it.
        [0x2001, 0, ..] => [Some(Ipv4Addr::from_bits(!at(12).to_bits())), Some(at(4))],
        _ => [None, None],
    }
}

/// fe80::/10 (link-local, RFC 4291), fec0::/10 (site-local, RFC 3879), fc00::/7 (unique local, RFC 4193) and 64:ff9b:1::/48
/// (translation within a network, RFC 8215).
fn is_local_v6(ip: Ipv6Addr) -> bool {
    let [first, second, third, ..] = ip.segments();
    first & 0xff80 == 0xfe80 || first & 0xfe00 == 0xfc00 || (first, second, third) == (0x64, 0xff9b, 1)
}

/// The address at which a peer may be reached: what it says, with an unspecified IP (`0.0.0.0`, `::`) replaced by the one
/// from which it came.
pub(super) fn reachable(listen: SocketAddr, remote: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { SocketAddr::new(remote.ip(), listen.port()) } else { listen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_addresses_never_aim_at_somebody_elses_house() {
        let refused = [
            "127.0.0.1:4000",
            "10.0.0.1:4000",
            "192.168.1.1:4000",
            "172.16.0.1:4000",
            "169.254.0.1:4000",
            "224.0.0.1:4000",
            "0.0.0.0:4000",
            "255.255.255.255:4000",
            "100.64.0.1:4000",
            "240.0.0.1:4000",
            "8.8.8.8:25",
            "[::1]:4000",
            "[::]:4000",
            "[fe80::1]:4000",
            "[fd00::1]:4000",
            "[ff02::1]:4000",
            "[::ffff:10.0.0.1]:4000",
            "[::10.0.0.1]:4000",
            "[64:ff9b::10.0.0.1]:4000",
            "[64:ff9b::127.0.0.1]:4000",
            "[64:ff9b:1::1]:4000",
            "[64:ff9b:1:ffff::808:808]:4000",
            "[2002:c0a8:101::1]:4000",
            "[2002:7f00:1::1]:4000",
            "[2001:0:808:808::f5ff:fffe]:4000",
            "[2001:0:a00:1::f7f7:f7f7]:4000",
            "[fec0::1]:4000",
            "[feff::1]:4000",
        ];
        for addr in refused {
            assert!(!AddressPolicy::Public.allows(addr.parse().expect(addr)), "{addr}");
        }
        for addr in ["8.8.8.8:4000", "[2001:db8::1]:1024", "100.128.0.1:4000"] {
            assert!(AddressPolicy::Public.allows(addr.parse().expect(addr)), "{addr}");
        }
    }

    #[test]
    fn an_address_that_carries_another_counts_as_the_one_inside() {
        let group = |addr: &str| NetGroup::of(addr.parse().expect(addr), AddressPolicy::Public);
        for addr in [
            "[::ffff:8.8.4.4]:4000",
            "[::8.8.4.4]:4000",
            "[64:ff9b::8.8.4.4]:4000",
            "[2002:808:404::1]:4000",
            "[2001:0:102:304:0:ffff:f7f7:fbfb]:4000",
        ] {
            assert_eq!(group(addr), NetGroup::V4([8, 8]), "{addr}");
            assert!(AddressPolicy::Public.allows(addr.parse().expect(addr)), "{addr}");
        }
        assert_eq!(group("[2001:db8::1]:4000"), NetGroup::V6([0x20, 1, 0xd, 0xb8]));
    }

    #[test]
    fn a_network_on_one_machine_may_use_loopback_and_no_other_private_range() {
        let allows = |addr: &str| AddressPolicy::Loopback.allows(addr.parse().expect(addr));
        assert!(allows("127.0.0.1:4000") && allows("127.9.9.9:4000"));
        assert!(!allows("10.0.0.1:4000") && !allows("127.0.0.1:80") && !allows("[::1]:4000"));
        assert!(!allows("[64:ff9b::127.0.0.1]:4000") && !allows("[2002:7f00:1::1]:4000"), "that is a gateway's");
    }
}
