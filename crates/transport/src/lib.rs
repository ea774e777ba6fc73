#![doc = include_str!("../README.md")]

pub mod key_file;
pub mod proto;

#[cfg(feature = "tokio")]
pub mod driver;
