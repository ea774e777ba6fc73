#![doc = include_str!("../README.md")]

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod key_file;
pub mod proto;

#[cfg(feature = "tokio")]
pub mod driver;
