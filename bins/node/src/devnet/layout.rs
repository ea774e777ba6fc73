//! The files of a devnet: a directory for each node, and one genesis for all.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use peerage_chain::proto::{
    genesis::{Genesis, GenesisFile},
    id::Producer,
};
use peerage_core::SecretRng;
use peerage_transport::{
    key_file::{self, KeyKind},
    proto::keypair::Keypair,
};

use super::DevnetError;
use crate::{
    ca::Authority,
    clock,
    config::{Layer, Security, Seed, TlsLayer},
    data_dir::DataDir,
    genesis::write_genesis,
    hex,
};

/// The network's name: under this one, nodes may dial addresses of this host that they learnt from others.
const NETWORK: &str = "dev";

/// For how long the certificates of a devnet are valid. Our guess: longer than anybody keeps one.
const CERTIFICATE_DAYS: u32 = 3_650;

/// The directories of a devnet.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    temporary: bool,
    nodes: Vec<DataDir>,
    genesis: Genesis,
    security: Security,
}

impl Layout {
    /// Makes directories, keys and genesis for so many nodes, in `dir` or in a new temporary directory.
    ///
    /// # Errors
    /// [`DevnetError`]; `dir` must not hold a devnet already.
    pub fn create(nodes: usize, dir: Option<PathBuf>, security: Security) -> Result<Self, DevnetError> {
        let temporary = dir.is_none();
        let root = match dir {
            Some(dir) => dir,
            None => {
                let random = hex::encode(&SecretRng::from_os().bytes32()[..8]);
                std::env::temp_dir().join(format!("peerage-devnet-{random}"))
            }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(DevnetError::io("create", &root))?;
        // Nodes, and whoever runs `peerage status` later, may stand elsewhere.
        let root = fs::canonicalize(&root).map_err(DevnetError::io("find", &root))?;
        let producer = Keypair::generate(&mut SecretRng::from_os());
        let file = GenesisFile::solo(1, NETWORK, Producer(*producer.node_id().as_bytes()), clock::unix_millis());
        let genesis = Genesis::new(&file).expect("one key, and limits by default");
        let mut authority = match security {
            Security::Noise => None,
            Security::Mtls => Some(Authority::init(&root.join("ca"), NETWORK, clock::unix_millis())?),
        };
        let mut layout = Self { root, temporary, nodes: Vec::with_capacity(nodes), genesis, security };
        for index in 0..nodes {
            let path = layout.root.join(name(index));
            if path.exists() {
                return Err(DevnetError::Occupied(path));
            }
            let dir = DataDir::create(&path)?;
            let identity = Keypair::generate(&mut SecretRng::from_os());
            key_file::create(&dir.identity_key(), KeyKind::Identity, &identity)?;
            if let Some(authority) = &mut authority {
                authority.issue(identity.node_id(), dir.path(), CERTIFICATE_DAYS, clock::unix_millis())?;
            }
            write_genesis(&dir.genesis(), &file)?;
            layout.nodes.push(dir);
        }
        // Not the seed, where there is a choice: nothing should depend on the one being the other.
        let producing = &layout.nodes[1.min(nodes - 1)];
        key_file::create(&producing.producer_key(), KeyKind::Producer, &producer)?;
        Ok(layout)
    }

    /// Writes the configuration of a node: any free port of the loopback interface, and the seeds given.
    ///
    /// # Errors
    /// [`DevnetError::Io`].
    pub fn configure(&self, index: usize, seeds: Vec<Seed>) -> Result<(), DevnetError> {
        let tls = match self.security {
            Security::Noise => TlsLayer::default(),
            Security::Mtls => TlsLayer {
                ca: Some("ca.pem".into()),
                certificate: Some("certificate.pem".into()),
                key: Some("tls.key".into()),
                crl: Some("crl.pem".into()),
            },
        };
        let (listen, security) = (Some(([127, 0, 0, 1], 0).into()), Some(self.security));
        let layer = Layer { listen, seeds: Some(seeds), security, tls, ..Layer::default() };
        let text = toml::to_string(&layer).expect("settings are plain tables, lists and texts");
        let path = self.nodes[index].config();
        fs::write(&path, text).map_err(DevnetError::io("write", &path))
    }

    /// The directory in which all others are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directories of the nodes.
    pub fn nodes(&self) -> &[DataDir] {
        &self.nodes
    }

    /// The genesis of all.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Where the ids of transactions are written before these are submitted.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Removes everything if nobody asked for this place; says whether it did.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove_if_temporary(&self) -> io::Result<bool> {
        if self.temporary {
            fs::remove_dir_all(&self.root)?;
        }
        Ok(self.temporary)
    }
}

/// What a node is called.
pub fn name(index: usize) -> String {
    format!("node-{index}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::NodeConfig, genesis::load_genesis};

    #[test]
    fn each_node_has_its_own_identity_and_only_the_second_the_producer_s_key() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::create(3, Some(parent.path().join("d")), Security::Mtls).expect("created");
        let identities: Vec<_> = layout
            .nodes()
            .iter()
            .map(|dir| key_file::load(&dir.identity_key(), KeyKind::Identity).expect("a key").node_id())
            .collect();
        assert!(identities[0] != identities[1] && identities[1] != identities[2] && identities[0] != identities[2]);
        let producers: Vec<_> = layout.nodes().iter().map(|dir| dir.producer_key().exists()).collect();
        assert_eq!(producers, [false, true, false]);
        for dir in layout.nodes() {
            assert_eq!(load_genesis(&dir.genesis()).expect("valid"), *layout.genesis());
        }
        let seed: Seed = format!("{}@127.0.0.1:4000", identities[0]).parse().expect("a seed");
        layout.configure(2, vec![seed.clone()]).expect("written");
        let config = NodeConfig::load(layout.nodes()[2].path(), [], Layer::default()).expect("valid");
        assert_eq!((config.seeds(), config.listen()), (&[seed][..], ([127, 0, 0, 1], 0).into()));
        let again =
            Layout::create(1, Some(parent.path().join("d")), Security::Noise).expect_err("occupied").to_string();
        assert!(again.contains("node-0"), "{again}");
        assert!(!layout.remove_if_temporary().expect("nothing to do") && layout.root().exists());
    }

    #[test]
    fn without_a_place_a_temporary_one_is_taken_and_removed_and_a_lone_node_produces() {
        let layout = Layout::create(1, None, Security::Noise).expect("created");
        assert!(layout.nodes()[0].producer_key().exists());
        assert!(layout.remove_if_temporary().expect("removed") && !layout.root().exists());
    }
}
