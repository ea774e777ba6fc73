#![doc = include_str!("../README.md")]

pub mod ca;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod data_dir;
pub mod devnet;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod genesis;
pub mod hex;
pub mod logs;
pub mod runtime;
pub mod stack;
pub mod toml_file;
