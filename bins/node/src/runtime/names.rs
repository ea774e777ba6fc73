//! Where configured nodes are: their names are looked up at the start and then again and again, as what a name means changes and
//! a resolver may not answer just when the node starts.

use core::{net::SocketAddr, time::Duration};
use peerage_transport::proto::peer_manager::KnownPeer;
use std::io;

use crate::config::Seed;

/// Names are looked up again after this time (our guess: as long as a record of the DNS that somebody moves is commonly kept).
pub(super) const LOOK_AGAIN: Duration = Duration::from_mins(5);
/// The same while some name has never meant anything (our guess: a resolver that starts beside the node).
pub(super) const LOOK_AGAIN_FIRST: Duration = Duration::from_secs(15);
/// How long a resolver is waited for (our guess; the usual one gives a server up after 5 s: resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses that are taken of one name: what a node record carries.
const MOST_ADDRS: usize = 4;

/// Configured nodes and where they are, as far as known.
#[derive(Debug)]
pub(super) struct Names {
    what: &'static str,
    named: Vec<(Seed, KnownPeer)>,
}

impl Names {
    /// Looks them up for the first time. A node whose name means nothing yet is known all the same, without an address.
    pub(super) async fn resolve(seeds: &[Seed], what: &'static str) -> Self {
        let named = seeds.iter().map(|seed| (seed.clone(), KnownPeer { peer: seed.id(), addrs: Vec::new() })).collect();
        let mut names = Self { what, named };
        names.look_again(look_up).await;
        names
    }

    /// All of them, each identity once: a node may have several names.
    pub(super) fn known(&self) -> Vec<KnownPeer> {
        let mut known: Vec<KnownPeer> = Vec::new();
        for (_, place) in &self.named {
            match known.iter_mut().find(|peer| peer.peer == place.peer) {
                Some(peer) => peer.addrs.extend_from_slice(&place.addrs),
                None => known.push(place.clone()),
            }
        }
        known
    }

    /// How long what is known counts; `None` if there are only addresses, which mean the same for ever.
    pub(super) fn look_again_after(&self) -> Option<Duration> {
        let mut names = self.named.iter().filter(|(seed, _)| !is_address(seed)).peekable();
        names.peek()?;
        Some(if names.any(|(_, known)| known.addrs.is_empty()) { LOOK_AGAIN_FIRST } else { LOOK_AGAIN })
    }

    /// Looks up the names and says who is elsewhere now. Whoever's name means nothing just now stays where it was.
    pub(super) async fn look_again(
        &mut self,
        look_up: impl AsyncFn(&Seed) -> io::Result<Vec<SocketAddr>>,
    ) -> Vec<KnownPeer> {
        let mut moved = Vec::new();
        for (seed, known) in &mut self.named {
            if is_address(seed) && !known.addrs.is_empty() {
                continue;
            }
            let found = look_up(seed).await.and_then(|mut addrs| {
                // A resolver turns the order round and round.
                addrs.sort_unstable();
                addrs.dedup();
                addrs.truncate(MOST_ADDRS);
                if addrs.is_empty() { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok(addrs) }
            });
            match found {
                Ok(addrs) if addrs != known.addrs => {
                    known.addrs = addrs;
                    moved.push(known.peer);
                }
                Ok(_) => {}
                Err(error) if known.addrs.is_empty() => tracing::warn!(
                    host = seed.host(), %error,
                    "cannot resolve a {}; it is tried again, but check its name in config.toml", self.what
                ),
                Err(error) => tracing::debug!(host = seed.host(), %error, "cannot resolve a {} now", self.what),
            }
        }
        self.known().into_iter().filter(|known| moved.contains(&known.peer)).collect()
    }
}

fn is_address(seed: &Seed) -> bool {
    seed.host().parse::<core::net::IpAddr>().is_ok()
}

/// Asks the resolver of the system.
pub(super) async fn look_up(seed: &Seed) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((seed.host(), seed.port()))).await;
    Ok(found.map_err(io::Error::from)??.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use peerage_core::NodeId;

    fn seed(number: u8, host: &str) -> Seed {
        format!("{}@{host}:4000", NodeId::from_bytes([number; 32])).parse().expect("a seed")
    }

    fn at(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4000).into()
    }

    fn known(number: u8, addrs: &[SocketAddr]) -> KnownPeer {
        KnownPeer { peer: NodeId::from_bytes([number; 32]), addrs: addrs.to_vec() }
    }

    #[tokio::test]
    async fn a_node_whose_name_means_nothing_yet_is_known_and_looked_for_until_it_does() {
        let named = ["a.example", "b.example", "192.0.2.9"].into_iter().zip(1..);
        let named = named.map(|(host, number)| (seed(number, host), known(number, &[]))).collect();
        let mut names = Names { what: "reserved peer", named };
        let asked = RefCell::new(Vec::new());
        let dns = RefCell::new(vec![("a.example", vec![at(2), at(1)]), ("192.0.2.9", vec![at(9)])]);
        let look_up = async |seed: &Seed| {
            asked.borrow_mut().push(seed.host().to_owned());
            let found = dns.borrow().iter().find(|(name, _)| *name == seed.host()).map(|(_, addrs)| addrs.clone());
            found.ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        assert_eq!(names.look_again(&look_up).await, [known(1, &[at(1), at(2)]), known(3, &[at(9)])]);
        assert_eq!(names.known(), [known(1, &[at(1), at(2)]), known(2, &[]), known(3, &[at(9)])]);
        assert_eq!(names.look_again_after(), Some(LOOK_AGAIN_FIRST));

        // The resolver turns the first one's order, forgets it, and learns of the second; the third needs none.
        asked.borrow_mut().clear();
        dns.borrow_mut()[0].1 = vec![at(1), at(2)];
        dns.borrow_mut().push(("b.example", (1..=9).map(at).collect()));
        assert_eq!(names.look_again(&look_up).await, [known(2, &[at(1), at(2), at(3), at(4)])]);
        assert_eq!(*asked.borrow(), ["a.example", "b.example"]);
        assert_eq!(names.look_again_after(), Some(LOOK_AGAIN));
        dns.borrow_mut().clear();
        assert_eq!(names.look_again(&look_up).await, []);
        assert_eq!(names.known()[0], known(1, &[at(1), at(2)]), "it stays where it was");
    }

    #[tokio::test]
    async fn addresses_are_not_looked_up_again_and_one_node_may_have_two_names() {
        let names =
            Names::resolve(&[seed(1, "192.0.2.1"), seed(1, "192.0.2.2"), seed(2, "[2001:db8::1]")], "seed").await;
        assert_eq!(names.known()[0], known(1, &[at(1), at(2)]));
        assert_eq!((names.known().len(), names.look_again_after()), (2, None));
    }
}
