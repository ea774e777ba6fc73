//! The settings about what secures connections.

use core::str::FromStr;
use peerage_transport::driver::tls::TlsFiles;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What secures connections. All nodes of a network use the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Keys alone: whoever knows the genesis may come.
    #[default]
    Noise,
    /// Mutual TLS: who is a member, the certificate authority of a consortium says.
    Mtls,
}

impl FromStr for Security {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "noise" => Ok(Self::Noise),
            "mtls" => Ok(Self::Mtls),
            _ => Err("`noise` or `mtls` is expected"),
        }
    }
}

/// The part of a [`Layer`](super::Layer) about certificates. Relative paths are within the data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsLayer {
    /// See [`TlsFiles::ca`].
    pub ca: Option<PathBuf>,
    /// See [`TlsFiles::certificate`].
    pub certificate: Option<PathBuf>,
    /// See [`TlsFiles::key`].
    pub key: Option<PathBuf>,
    /// See [`TlsFiles::crl`].
    pub crl: Option<PathBuf>,
}

impl TlsLayer {
    /// Where the files are, or the setting that is missing.
    pub(super) fn files(self, data_dir: &Path) -> Result<TlsFiles, &'static str> {
        let within = |setting, path: Option<PathBuf>| path.map(|path| data_dir.join(path)).ok_or(setting);
        Ok(TlsFiles {
            ca: within("tls.ca", self.ca)?,
            certificate: within("tls.certificate", self.certificate)?,
            key: within("tls.key", self.key)?,
            crl: self.crl.map(|path| data_dir.join(path)),
        })
    }
}
