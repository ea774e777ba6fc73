//! What all connections of a node share: how long messages are, which may go compressed, what may be asked with the first words.

use core::net::SocketAddr;
use peerage_chain::proto::genesis::Genesis;
use peerage_core::{Budget, SecretRng};
use peerage_transport::proto::{
    connection::{COMPRESSION, ConnectionConfig},
    keypair::Keypair,
};
use peerage_wire::Limits;
use std::sync::Arc;

use super::magic;
use crate::config::NodeConfig;

/// For a node that listens at `listen`, and tells its peers so unless the operator named another address.
pub(super) fn connections(
    config: &NodeConfig,
    genesis: &Genesis,
    identity: &Arc<Keypair>,
    listen: SocketAddr,
    budget: &Budget,
    rng: &mut SecretRng,
) -> ConnectionConfig {
    // What discovery says is public too, but keys, hashes and signatures, of which nothing is saved.
    let limits = Limits::new(&[peerage_discovery::LIMITS, peerage_gossip::proto::LIMITS, peerage_chain::proto::LIMITS])
        .with_public(&[peerage_gossip::proto::PUBLIC, peerage_chain::proto::PUBLIC]);
    let (identity, limits, budget) = (Arc::clone(identity), Arc::new(limits), budget.clone());
    let mut security = ConnectionConfig::new(identity, genesis.network_id(), magic(genesis), limits, budget, rng);
    if config.compression() {
        security.features |= COMPRESSION;
    }
    security.listen = vec![config.advertise().unwrap_or(listen)];
    security.early = peerage_discovery::EARLY.to_vec();
    security
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;
    use peerage_chain::proto::{genesis::GenesisFile, id::Producer};
    use peerage_core::{Seed, UnixMillis};
    use std::path::Path;

    fn built(environment: &[(&str, &str)]) -> ConnectionConfig {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = NodeConfig::resolve(Path::new("/d"), None, environment, Layer::default()).expect("valid");
        let identity = Arc::new(Keypair::from_seed(&[1; 32]));
        let producer = Producer(*identity.node_id().as_bytes());
        let genesis = Genesis::new(&GenesisFile::solo(1, "dev", producer, UnixMillis(1))).expect("valid");
        let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(1));
        connections(&config, &genesis, &identity, ([127, 0, 0, 1], 4000).into(), &Budget::default(), &mut rng)
    }

    #[test]
    fn only_the_setting_offers_compression() {
        assert_eq!(built(&[]).features, 0);
        assert_eq!(built(&[("PEERAGE_COMPRESSION", "false")]).features, 0);
        assert_eq!(built(&[("PEERAGE_COMPRESSION", "true")]).features, COMPRESSION);
    }

    #[test]
    fn connections_know_what_each_layer_says_and_as_public_and_early_what_its_tables_say() {
        let ConnectionConfig { limits, early, .. } = built(&[]);
        let public = [peerage_gossip::PUBLIC, peerage_chain::proto::PUBLIC].concat();
        assert!(!public.is_empty() && !early.is_empty());
        for &(command, limit) in
            [peerage_discovery::LIMITS, peerage_gossip::LIMITS, peerage_chain::proto::LIMITS].concat().iter()
        {
            assert_eq!((limits.knows(command), limits.of(command)), (true, limit as usize), "{command:?}");
            assert_eq!(limits.is_public(command), public.contains(&command), "{command:?}");
        }
        assert_eq!(early, peerage_discovery::EARLY);
    }

    #[test]
    fn peers_are_told_the_advertised_address_and_without_one_where_the_node_listens() {
        assert_eq!(built(&[]).listen, ["127.0.0.1:4000".parse().expect("an address")]);
        let advertised = built(&[("PEERAGE_ADVERTISE", "198.51.100.7:4477")]);
        assert_eq!(advertised.listen, ["198.51.100.7:4477".parse().expect("an address")]);
    }
}
