//! Secret keys at rest.
//!
//! A key file is text of two lines, what kind of key it is and its seed:
//!
//! ```text
//! peerage identity key v1
//! 9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60
//! ```
//!
//! It belongs to its owner alone (mode 0600), is never overwritten, and is on the disk, name included, when [`create`]
//! returns.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::proto::keypair::{Keypair, SEED_LEN};

/// What a key is for. Kinds are never interchangeable, so that no key is ever used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Who the node is.
    Identity,
    /// Signs blocks.
    Producer,
    /// Signs transactions.
    Account,
}

impl KeyKind {
    const ALL: [Self; 3] = [Self::Identity, Self::Producer, Self::Account];

    /// The first line of its files.
    const fn headline(self) -> &'static str {
        match self {
            Self::Identity => "peerage identity key v1",
            Self::Producer => "peerage producer key v1",
            Self::Account => "peerage account key v1",
        }
    }
}

/// A key file that cannot be written or used. The operator's to mend; each says how.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is a file already. Keys are not overwritten.
    #[error("{} exists already: load it, or move it away if a new key is wanted", .0.display())]
    Exists(PathBuf),
    /// Others than the owner may read or write it.
    #[error(
        "{path} has mode {mode:04o}, so its key may be known to others: run `chmod 600 {path}`, or replace the key",
        path = .path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key of another kind.
    #[error(
        "{} holds a key of kind {found:?}, and {expected:?} is needed: give the path of the right file",
        .path.display()
    )]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// The kind asked for.
        expected: KeyKind,
        /// The kind found.
        found: KeyKind,
    },
    /// Not a key file, or one that was damaged.
    #[error(
        "{} is not a key file (a headline and 64 hexadecimal digits): restore it from a backup, or create a new one",
        .0.display()
    )]
    Malformed(PathBuf),
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

/// More than any key file has: headline, 64 digits, line ends.
const MAX_LEN: u64 = 128;

/// Permission bits that nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// Writes `keypair` to a new file, readable by its owner only. It has reached the disk when this returns.
///
/// # Errors
/// [`KeyFileError::Exists`] if there is anything at `path`, [`KeyFileError::Io`]; no file is left behind then.
pub fn create(path: &Path, kind: KeyKind, keypair: &Keypair) -> Result<(), KeyFileError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|reason| {
            match reason.kind() {
                io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
                _ => io_error("create", path)(reason),
            }
        })?;
    let written =
        file.write_all(&encode(kind, keypair)).and_then(|()| file.sync_all()).map_err(io_error("write", path));
    // The name is an entry of the directory, which has to reach the disk too.
    let written = written.and_then(|()| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error("sync", directory))
    });
    if written.is_err() {
        // Half a key is worse than none; if even this fails, the first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Reads the key of kind `kind` from `path`.
///
/// # Errors
/// [`KeyFileError::TooOpen`] if the file's mode lets others at it, [`KeyFileError::WrongKind`],
/// [`KeyFileError::Malformed`], [`KeyFileError::Io`].
pub fn load(path: &Path, kind: KeyKind) -> Result<Keypair, KeyFileError> {
    let (found, keypair) = load_any(path)?;
    if found != kind {
        return Err(KeyFileError::WrongKind { path: path.to_owned(), expected: kind, found });
    }
    Ok(keypair)
}

/// Reads the key at `path` and what it is for: to look at it. Whoever uses a key asks for one of a kind with [`load`].
///
/// # Errors
/// [`KeyFileError::TooOpen`] if the file's mode lets others at it, [`KeyFileError::Malformed`], [`KeyFileError::Io`].
pub fn load_any(path: &Path) -> Result<(KeyKind, Keypair), KeyFileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    // Of the open file, not of the path, which might name another one by now.
    let metadata = file.metadata().map_err(io_error("examine", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyFileError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN as usize));
    file.take(MAX_LEN).read_to_end(&mut text).map_err(io_error("read", path))?;
    let (kind, seed) = decode(&text).ok_or_else(|| KeyFileError::Malformed(path.to_owned()))?;
    Ok((kind, Keypair::from_seed(&seed)))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |reason| KeyFileError::Io { action, path, reason }
}

pub(crate) fn encode(kind: KeyKind, keypair: &Keypair) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Room for all of it at once: a vector that grows leaves copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN as usize));
    text.extend_from_slice(kind.headline().as_bytes());
    text.push(b'\n');
    for byte in keypair.seed() {
        text.extend([byte >> 4, byte & 0x0f].map(|digit| DIGITS[usize::from(digit)]));
    }
    text.push(b'\n');
    text
}

pub(crate) fn decode(text: &[u8]) -> Option<(KeyKind, Zeroizing<[u8; SEED_LEN]>)> {
    let mut lines = text.strip_suffix(b"\n")?.split(|&byte| byte == b'\n');
    let (headline, digits) = (lines.next()?, lines.next()?);
    let kind = KeyKind::ALL.into_iter().find(|kind| kind.headline().as_bytes() == headline)?;
    if digits.len() != 2 * SEED_LEN || lines.next().is_some() {
        return None;
    }
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |i: usize| char::from(pair[i]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some((kind, seed))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn keypair() -> Keypair {
        Keypair::from_seed(&core::array::from_fn(|i| i as u8 * 5))
    }

    #[test]
    fn a_key_comes_back_from_a_file_that_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        for kind in KeyKind::ALL {
            let path = directory.path().join(format!("{kind:?}"));
            create(&path, kind, &keypair()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
            assert_eq!(load(&path, kind).unwrap().node_id(), keypair().node_id());
            let (found, loaded) = load_any(&path).unwrap();
            assert_eq!((found, loaded.node_id()), (kind, keypair().node_id()));
        }
        let text = fs::read_to_string(directory.path().join("Identity")).unwrap();
        assert!(text.starts_with("peerage identity key v1\n00050a0f"), "{text}");
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, KeyKind::Identity, &keypair()).unwrap();
        let other = Keypair::from_seed(&[9; 32]);
        assert!(matches!(create(&path, KeyKind::Identity, &other), Err(KeyFileError::Exists(at)) if at == path));
        assert_eq!(load(&path, KeyKind::Identity).unwrap().node_id(), keypair().node_id());
    }

    #[test]
    fn a_file_that_others_may_open_is_refused_and_the_error_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, KeyKind::Identity, &keypair()).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o610, 0o602, 0o601, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = load(&path, KeyKind::Identity).unwrap_err();
            assert!(matches!(error, KeyFileError::TooOpen { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(load(&path, KeyKind::Identity).is_ok(), "narrower is welcome");
    }

    #[test]
    fn a_key_of_one_kind_is_no_key_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, KeyKind::Producer, &keypair()).unwrap();
        for kind in [KeyKind::Identity, KeyKind::Account] {
            let error = load(&path, kind).unwrap_err();
            let found =
                matches!(error, KeyFileError::WrongKind { expected, found: KeyKind::Producer, .. } if expected == kind);
            assert!(found, "{error}");
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        let good = encode(KeyKind::Identity, &keypair());
        assert!(decode(&good).is_some());
        for at in 0..good.len() {
            assert!(decode(&good[..at]).is_none(), "cut to {at}");
            let mut bad = good.to_vec();
            bad[at] = b'_';
            assert!(decode(&bad).is_none(), "byte {at}");
        }
        for bad in [[good.as_slice(), b"\n"].concat(), [b"\n", good.as_slice()].concat(), vec![b'0'; 4096]] {
            assert!(decode(&bad).is_none());
        }
    }

    #[test]
    fn where_there_is_no_directory_there_is_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("key");
        let error = create(&path, KeyKind::Identity, &keypair()).unwrap_err();
        assert!(matches!(error, KeyFileError::Io { action: "create", .. }), "{error}");
        assert!(matches!(load(&path, KeyKind::Identity), Err(KeyFileError::Io { action: "open", .. })));
    }
}
