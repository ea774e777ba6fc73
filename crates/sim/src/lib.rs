#![doc = include_str!("../README.md")]

mod config;
mod digest;
mod link;
mod network;
mod node;
mod pressure;
mod queue;
mod sim;
mod work;

pub use config::{Path, SimConfig};
pub use node::{CrashAt, CrashPoint, NodeSpec, Resource, Traffic};
pub use sim::Sim;
