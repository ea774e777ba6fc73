//! A consortium's certificate authority in a directory: who got a certificate, and whose is revoked.
//!
//! | file | |
//! |---|---|
//! | `ca.key` | signs certificates and revocations; for nothing else, and for its owner alone (mode 0600) |
//! | `ca.pem` | the authority's own certificate, for all nodes |
//! | `crl.pem` | what was revoked, for all nodes |
//! | `issued.json` | the list of what was issued |

use core::time::Duration;
use peerage_core::{NodeId, SecretRng, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use thiserror::Error;

use crate::{
    data_dir::{DataDir, DataDirError},
    hex,
};

/// For how long an authority's certificate is valid. Nodes do not look at it (an authority counts as long as its operators
/// name it), other tools do. Our guess: ten years.
const AUTHORITY_DAYS: u64 = 3_650;
/// When a list of revocations is due to be renewed. A list that is overdue still counts, with a warning in the logs of nodes. Our
/// guess: a month.
const LIST_DAYS: u64 = 30;
/// Certificates are valid from so long before their issue, for clocks that are behind. Our guess: an hour.
const CLOCK_SKEW: u64 = 3_600;
const DAY: u64 = 86_400;
/// Permission bits that nobody but the owner of a key may have.
const OTHERS: u32 = 0o077;
/// Longest name of an authority (RFC 5280, appendix A, ub-common-name).
const MAX_NAME: usize = 64;

/// An authority that cannot be used. The operator's to mend; each says how.
#[derive(Debug, Error)]
pub enum CaError {
    /// Something is there already.
    #[error("{} exists already: it is not overwritten; move it away, or give another directory", .0.display())]
    Exists(PathBuf),
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Others than the owner may read or write the key.
    #[error(
        "{path} has mode {mode:04o}, so others could issue certificates: run `chmod 600 {path}`, or start another authority",
        path = .path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No authority, or one that was damaged.
    #[error("{} cannot be read as a file of an authority: restore it from a backup", .0.display())]
    Damaged(PathBuf),
    /// A node that has no certificate to revoke.
    #[error("node {node} has no certificate that could be revoked: see `peerage ca show`")]
    Unknown {
        /// Which.
        node: NodeId,
    },
    /// A name that no certificate can carry.
    #[error("an authority's name has 1 to {MAX_NAME} letters, digits, blanks or signs of ASCII")]
    Name,
    /// A certificate cannot be made.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// The operating system refused.
    #[error("cannot {action} {}: {reason}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Its number: 16 random bytes in hexadecimal.
    pub serial: String,
    /// Whose it is.
    #[serde(with = "hex::text")]
    pub node: NodeId,
    /// Until when it is valid, seconds since 1970.
    pub not_after: u64,
    /// When it was revoked, if it was.
    pub revoked: Option<u64>,
}

/// What `issued.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    name: String,
    /// Number of the last list of revocations.
    lists: u64,
    issued: Vec<Issued>,
}

/// A certificate authority. As long as this lives, nobody else has it open: what one command revokes another must not write over.
pub struct Authority {
    dir: PathBuf,
    /// The directory itself, locked.
    _lock: File,
    issuer: Issuer<'static, KeyPair>,
    register: Register,
}

impl Authority {
    /// Makes an authority in `dir`, which is created and closed to others. Waits while another command uses it.
    ///
    /// # Errors
    /// [`CaError::Exists`] if there is one, [`CaError::Name`], those of the file system.
    pub fn init(dir: &Path, name: &str, now: UnixMillis) -> Result<Self, CaError> {
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(CaError::Name);
        }
        DataDir::create(dir)?;
        let lock = lock(dir)?;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = authority_params(name);
        set_validity(&mut params, now, AUTHORITY_DAYS);
        let certificate = params.self_signed(&key)?;
        create(&dir.join("ca.key"), 0o600, &key.serialize_pem())?;
        create(&dir.join("ca.pem"), 0o644, &certificate.pem())?;
        let register = Register { name: name.to_owned(), lists: 0, issued: Vec::new() };
        let mut this = Self { dir: dir.to_owned(), _lock: lock, issuer: Issuer::new(params, key), register };
        this.write_list(now)?;
        Ok(this)
    }

    /// The authority in `dir`. Waits while another command uses it.
    ///
    /// # Errors
    /// [`CaError::TooOpen`], [`CaError::Damaged`], those of the file system.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let path = dir.join("ca.key");
        let failed = |reason| CaError::Io { action: "read", path: path.clone(), reason };
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(CaError::TooOpen { path, mode });
        }
        let lock = lock(dir)?;
        let key = fs::read_to_string(&path).map_err(failed)?;
        let key = KeyPair::from_pem(&key).map_err(|_| CaError::Damaged(path.clone()))?;
        let path = dir.join("issued.json");
        let text = fs::read(&path).map_err(|reason| CaError::Io { action: "read", path: path.clone(), reason })?;
        let register: Register = serde_json::from_slice(&text).map_err(|_| CaError::Damaged(path))?;
        let issuer = Issuer::new(authority_params(&register.name), key);
        Ok(Self { dir: dir.to_owned(), _lock: lock, issuer, register })
    }

    /// What was issued, the oldest first.
    pub fn issued(&self) -> &[Issued] {
        &self.register.issued
    }

    /// Issues a certificate for `days` to a node, and writes what it needs into `out`: the certificate with a new key, the
    /// authority's certificate and its list of revocations.
    ///
    /// # Errors
    /// [`CaError::Exists`] if there is a certificate or key in `out`, those of the file system.
    pub fn issue(&mut self, node: NodeId, out: &Path, days: u32, now: UnixMillis) -> Result<Issued, CaError> {
        let (key_path, certificate_path) = (out.join("tls.key"), out.join("certificate.pem"));
        if let Some(there) = [&key_path, &certificate_path].into_iter().find(|path| path.exists()) {
            return Err(CaError::Exists(there.clone()));
        }
        let serial = serial();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node.short());
        params.subject_alt_names = vec![SanType::URI(format!("peerage:{node}").as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, days.into());
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::create_dir_all(out).map_err(|reason| CaError::Io { action: "create", path: out.to_owned(), reason })?;
        // It is on the list before anybody can have it.
        let issued = Issued {
            serial: hex::encode(&serial),
            node,
            not_after: now.0 / 1000 + u64::from(days) * DAY,
            revoked: None,
        };
        self.register.issued.push(issued.clone());
        self.write_register()?;
        create(&key_path, 0o600, &key.serialize_pem())?;
        create(&certificate_path, 0o644, &certificate.pem())?;
        for shared in ["ca.pem", "crl.pem"] {
            let path = self.dir.join(shared);
            let text = fs::read_to_string(&path).map_err(|reason| CaError::Io { action: "read", path, reason })?;
            replace(&out.join(shared), &text)?;
        }
        Ok(issued)
    }

    /// Revokes all certificates of these nodes, and writes the list anew: how many it revoked.
    ///
    /// # Errors
    /// [`CaError::Unknown`] if a node has none, and then nothing is revoked; those of the file system.
    pub fn revoke(&mut self, nodes: &[NodeId], now: UnixMillis) -> Result<usize, CaError> {
        let mut revoked = 0;
        for node in nodes {
            let before = revoked;
            for issued in
                self.register.issued.iter_mut().filter(|issued| issued.node == *node && issued.revoked.is_none())
            {
                issued.revoked = Some(now.0 / 1000);
                revoked += 1;
            }
            if revoked == before {
                return Err(CaError::Unknown { node: *node });
            }
        }
        self.write_list(now)?;
        Ok(revoked)
    }

    fn write_list(&mut self, now: UnixMillis) -> Result<(), CaError> {
        self.register.lists += 1;
        // The number is used up before the list can be seen.
        self.write_register()?;
        let at = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let revoked = self.register.issued.iter().filter_map(|issued| {
            let serial = hex::decode(&issued.serial).ok()?;
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: at(issued.revoked?),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: at((now.0 / 1000).saturating_sub(CLOCK_SKEW)),
            next_update: at(now.0 / 1000 + LIST_DAYS * DAY),
            crl_number: SerialNumber::from(self.register.lists),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        replace(&self.dir.join("crl.pem"), &list.signed_by(&self.issuer)?.pem()?)
    }

    fn write_register(&self) -> Result<(), CaError> {
        let text = serde_json::to_string_pretty(&self.register).expect("names, numbers and texts");
        replace(&self.dir.join("issued.json"), &text)
    }
}

/// Has the directory to ourselves until the file is closed, however that comes about.
fn lock(dir: &Path) -> Result<File, CaError> {
    let failed = |reason| CaError::Io { action: "lock", path: dir.to_owned(), reason };
    let file = File::open(dir).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// What an authority's certificate says but for its dates. Who signs in its name needs the same.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Positive and of full length (RFC 5280, 4.1.2.2), and nobody can guess the next one.
fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = *SecretRng::from_os().bytes32().first_chunk().expect("32 bytes have 16");
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

/// Valid from now on for so many days.
fn set_validity(params: &mut CertificateParams, now: UnixMillis, days: u64) {
    let (now, at) = (now.0 / 1000, |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds));
    params.not_before = at(now.saturating_sub(CLOCK_SKEW));
    params.not_after = at(now + days * DAY);
}

/// Writes a file that must not be there yet, and that is on the disk when this returns.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), CaError> {
    let failed = |reason: io::Error| match reason.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists(path.to_owned()),
        _ => CaError::Io { action: "create", path: path.to_owned(), reason },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    sync_dir(path)
}

/// Puts a file in the place of another at once, so that who reads sees the one or the other.
fn replace(path: &Path, text: &str) -> Result<(), CaError> {
    let beside = path.with_extension("new");
    let failed = |reason| CaError::Io { action: "write", path: path.to_owned(), reason };
    let mut file = File::create(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    sync_dir(path)
}

/// A name is an entry of its directory, which has to reach the disk too.
fn sync_dir(path: &Path) -> Result<(), CaError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|reason| CaError::Io { action: "sync", path: dir.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_core::Seed;
    use peerage_transport::{
        driver::{
            Clock,
            tls::{TlsChannel, TlsFiles},
        },
        proto::{connection::ConnectionConfig, keypair::Keypair},
    };
    use std::sync::Arc;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn files(dir: &Path) -> TlsFiles {
        let within = |name: &str| dir.join(name);
        let crl = Some(within("crl.pem"));
        TlsFiles { ca: within("ca.pem"), certificate: within("certificate.pem"), key: within("tls.key"), crl }
    }

    /// What a node with the key of this number says to these files.
    fn start(number: u8, files: TlsFiles, wall: UnixMillis) -> Result<TlsChannel, String> {
        let keypair = Arc::new(Keypair::from_seed(&[number; 32]));
        let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(1));
        let (network, magic) = (peerage_core::NetworkId::default(), peerage_wire::Magic::DEV);
        let budget = peerage_core::Budget::default();
        let config = ConnectionConfig::new(keypair, network, magic, Arc::default(), budget, &mut rng);
        let now = peerage_core::Now { wall, ..Clock::start().now() };
        TlsChannel::new(Arc::new(config), files, now).map_err(|error| error.to_string())
    }

    fn id(number: u8) -> NodeId {
        Keypair::from_seed(&[number; 32]).node_id()
    }

    #[test]
    fn what_an_authority_issues_is_what_a_node_starts_with_until_it_is_revoked_or_expires() {
        let ground = tempfile::tempdir().expect("a directory");
        let (dir, node) = (ground.path().join("ca"), ground.path().join("node"));
        Authority::init(&dir, "of ours", NOW).expect("made");
        let issued = Authority::open(&dir).expect("there").issue(id(1), &node, 30, NOW).expect("issued");
        for key in [dir.join("ca.key"), node.join("tls.key")] {
            assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o7777, 0o600);
        }
        assert_eq!(start(1, files(&node), NOW).err(), None);
        let of_another = start(2, files(&node), NOW).err().expect("not its own");
        assert!(of_another.contains(&id(1).to_string()), "{of_another}");
        let later = start(1, files(&node), UnixMillis(NOW.0 + 31 * DAY * 1000)).err().expect("expired");
        assert!(later.contains("certificate_expired"), "{later}");

        assert_eq!(Authority::open(&dir).expect("there").revoke(&[id(1)], NOW).expect("revoked"), 1);
        assert_eq!(start(1, files(&node), NOW).err(), None, "it does not know yet");
        let told = TlsFiles { crl: Some(dir.join("crl.pem")), ..files(&node) };
        let revoked = start(1, told, NOW).err().expect("revoked");
        assert!(revoked.contains("certificate_revoked"), "{revoked}");
        let list = Authority::open(&dir).expect("there").issued().to_vec();
        assert_eq!(list, [Issued { revoked: Some(NOW.0 / 1000), ..issued }]);
    }

    #[test]
    fn nothing_is_overwritten_and_nobody_is_revoked_by_mistake() {
        let ground = tempfile::tempdir().expect("a directory");
        let (dir, node) = (ground.path().join("ca"), ground.path().join("node"));
        drop(Authority::init(&dir, "of ours", NOW).expect("made"));
        assert!(
            matches!(Authority::init(&dir, "another", NOW), Err(CaError::Exists(path)) if path == dir.join("ca.key"))
        );
        assert!(matches!(Authority::init(&node, "na\u{ef}ve", NOW), Err(CaError::Name)));
        let mut authority = Authority::open(&dir).expect("there");
        authority.issue(id(1), &node, 30, NOW).expect("issued");
        assert!(matches!(authority.issue(id(2), &node, 30, NOW), Err(CaError::Exists(_))), "another's key is there");
        assert!(matches!(authority.revoke(&[id(1), id(3)], NOW), Err(CaError::Unknown { node }) if node == id(3)));
        drop(authority);
        let authority = Authority::open(&dir).expect("there");
        assert_eq!(authority.issued().iter().map(|issued| issued.revoked).collect::<Vec<_>>(), [None]);
        fs::set_permissions(dir.join("ca.key"), fs::Permissions::from_mode(0o640)).expect("ours");
        assert!(matches!(Authority::open(&dir), Err(CaError::TooOpen { .. })));
    }
    #[test]
    fn of_commands_at_the_same_time_none_undoes_what_another_revoked() {
        let ground = tempfile::tempdir().expect("a directory");
        let dir = ground.path().join("ca");
        let mut authority = Authority::init(&dir, "of ours", NOW).expect("made");
        for number in 1..=8 {
            authority.issue(id(number), &ground.path().join(number.to_string()), 30, NOW).expect("issued");
        }
        drop(authority);
        std::thread::scope(|threads| {
            for number in 1..=8 {
                let dir = &dir;
                threads
                    .spawn(move || Authority::open(dir).expect("there").revoke(&[id(number)], NOW).expect("revoked"));
            }
        });
        let authority = Authority::open(&dir).expect("there");
        assert_eq!(authority.issued().iter().filter(|issued| issued.revoked.is_some()).count(), 8);
    }
}
