#![doc = include_str!("../README.md")]

#[cfg(test)]
mod fixtures;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod proto;
pub mod store;
