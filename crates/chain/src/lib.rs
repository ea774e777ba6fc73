#![doc = include_str!("../README.md")]

#[cfg(test)]
mod fixtures;
pub mod proto;
pub mod store;
