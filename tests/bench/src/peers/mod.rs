//! The peers, each as its own users would set it up.

pub(crate) mod libp2p;
pub(crate) mod proto;
pub(crate) mod snow;
pub(crate) mod stream;
pub(crate) mod tls;
