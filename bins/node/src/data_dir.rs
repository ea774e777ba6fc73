//! The directory in which a node lives: where its files are, and that only one process uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Bytes of the path of a Unix socket, with the zero behind it (unix(7), `sun_path`).
const SOCKET_PATH_BYTES: usize = 108;
/// Permission bits that nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// A directory that cannot be used. The operator's to mend; each says how.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// There is no such directory.
    #[error("there is no data directory {path}: create one with `peerage init --dir {path}`", path = .0.display())]
    Missing(PathBuf),
    /// Others could reach the keys and the control socket.
    #[error(
        "the data directory {path} has mode {mode:04o}, so others may enter it: run `chmod 700 {path}`",
        path = .path.display()
    )]
    TooOpen {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process uses it.
    #[error(
        "the data directory {path} is in use by another process: stop that (`peerage status --dir {path}` shows it), \
         or give this node a directory of its own with --dir",
        path = .0.display()
    )]
    InUse(PathBuf),
    /// The path of the control socket is too long, and this system has no way around that.
    #[error("the path {} is too long for a Unix socket on this system: move the data directory", .0.display())]
    SocketPathTooLong(PathBuf),
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

/// The data directory of a node. It exists and belongs to its owner alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Creates the directory, or takes one that is there, and lets nobody else in.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn create(path: &Path) -> Result<Self, DataDirError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error("protect", path))?;
        Self::open(path)
    }

    /// Takes a directory that is there.
    ///
    /// # Errors
    /// [`DataDirError::Missing`], [`DataDirError::TooOpen`], [`DataDirError::Io`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Err(reason) if !matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(io_error("examine", path)(reason));
            }
            _ => return Err(DataDirError::Missing(path.to_owned())),
        };
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(DataDirError::TooOpen { path: path.to_owned(), mode });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration; may be absent.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The genesis of the network.
    pub fn genesis(&self) -> PathBuf {
        self.path.join("genesis.toml")
    }

    /// Who the node is.
    pub fn identity_key(&self) -> PathBuf {
        self.path.join("identity.key")
    }

    /// With what the node signs blocks; absent unless it is a producer.
    pub fn producer_key(&self) -> PathBuf {
        self.path.join("producer.key")
    }

    /// The chain.
    pub fn store(&self) -> PathBuf {
        self.path.join("chain.redb")
    }

    /// The control socket. Of any length: bind and connect through [`control_socket`](Self::control_socket).
    pub fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Says that this process, and no other, uses the directory until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// [`DataDirError::InUse`], [`DataDirError::Io`].
    pub fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.path.join("LOCK");
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let file = options.open(&path).map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(DataDirLock { dir: self.clone(), _file: file }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(self.path.clone())),
            Err(TryLockError::Error(reason)) => Err(io_error("lock", &path)(reason)),
        }
    }

    /// The path under which the control socket can be bound and connected, whatever the length of the directory's.
    ///
    /// # Errors
    /// [`DataDirError::SocketPathTooLong`] where there is no `/proc`; [`DataDirError::Io`].
    pub fn control_socket(&self) -> Result<SocketPath, DataDirError> {
        let path = self.control();
        if path.as_os_str().len() < SOCKET_PATH_BYTES {
            return Ok(SocketPath { path, _dir: None });
        }
        if cfg!(target_os = "linux") {
            use std::os::fd::AsRawFd;
            let dir = File::open(&self.path).map_err(io_error("open", &self.path))?;
            let path = PathBuf::from(format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()));
            Ok(SocketPath { path, _dir: Some(dir) })
        } else {
            Err(DataDirError::SocketPathTooLong(path))
        }
    }
}

/// A path short enough for a Unix socket. It is good for as long as this value lives: keep it over the call.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// The directory that `/proc/self/fd` names.
    _dir: Option<File>,
}

impl AsRef<Path> for SocketPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// The right to use a data directory alone; given back when dropped.
#[derive(Debug)]
pub struct DataDirLock {
    dir: DataDir,
    _file: File,
}

impl DataDirLock {
    /// The directory that is locked.
    pub const fn dir(&self) -> &DataDir {
        &self.dir
    }
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |reason| DataDirError::Io { action, path, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_new_directory_is_its_owners_alone_and_an_open_one_is_refused_with_the_remedy() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let path = parent.path().join("a/b");
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Missing(at)) if at == path));
        DataDir::create(&path).expect("created");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("ours");
        let error = DataDir::open(&path).expect_err("a group may enter").to_string();
        assert!(error.contains("mode 0750") && error.contains("chmod 700"), "{error}");
        DataDir::create(&path).expect("taken and closed");
        fs::write(parent.path().join("file"), "").expect("written");
        assert!(matches!(DataDir::open(&parent.path().join("file")), Err(DataDirError::Missing(_))));
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::create(&parent.path().join("d")).expect("created");
        let lock = dir.lock().expect("free");
        let error = dir.lock().expect_err("taken").to_string();
        assert!(error.contains("in use") && error.contains(&dir.path().display().to_string()), "{error}");
        drop(lock);
        assert_eq!(dir.lock().expect("free again").dir(), &dir);
    }

    #[test]
    fn a_socket_works_at_a_path_three_times_as_long_as_a_socket_s_may_be() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let long = parent.path().join("x".repeat(150)).join("y".repeat(150));
        let dir = DataDir::create(&long).expect("created");
        assert!(UnixListener::bind(dir.control()).is_err(), "the plain path does not do");
        let listener = UnixListener::bind(dir.control_socket().expect("a way around")).expect("bound");
        assert!(dir.control().exists(), "the socket is where it belongs");
        let _stream = UnixStream::connect(dir.control_socket().expect("a way around")).expect("connected");
        listener.accept().expect("somebody is there");
        let short = DataDir::create(&parent.path().join("d")).expect("created");
        assert_eq!(short.control_socket().expect("short").as_ref(), short.control());
    }
}
