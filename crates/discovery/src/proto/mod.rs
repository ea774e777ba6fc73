//! The pure half, which is all there is: discovery needs neither sockets nor clocks.

pub mod discovery;
pub(crate) mod heard;
pub mod key;
pub mod lookup;
pub mod messages;
pub mod record;
pub(crate) mod search;
pub mod table;
