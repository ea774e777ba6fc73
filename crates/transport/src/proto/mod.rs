//! The pure half of the transport: no clock, no entropy, no sockets; bytes go in, bytes and typed errors come out.

pub mod admission;
pub mod bucket;
pub mod connection;
pub mod egress;
pub mod fair;
pub mod inflow;
pub mod ingress;
pub mod keypair;
pub mod managed;
pub mod noise;
pub mod peer_manager;
pub mod recorder;
pub mod shedder;
pub mod signed;
