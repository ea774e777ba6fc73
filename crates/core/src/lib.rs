#![doc = include_str!("../README.md")]

pub mod array;
mod budget;
mod class;
mod connection;
mod id;
mod inbox;
mod job;
mod message;
pub mod pressure;
mod protocol;
pub mod queue;
#[cfg(feature = "random")]
mod random;
mod reason;
mod stack;
mod time;
mod timers;

pub use budget::{Account, Budget, BudgetReport, Charge, OverBudget, Owed, Pool, Strain, Taken};
pub use class::{Class, PerClass};
pub use connection::{
    Connection, ConnectionCommand, ConnectionEvent, DialKey, LinkInfo, LinkStats, Outbound, Resident,
};
pub use id::{NetworkId, NodeId, ParseIdError};
pub use job::{Cost, Job, JobId, Lane, NoJob};
pub use message::{Command, Layer, Message};
pub use pressure::{Debtor, Lookout, Pressure};
pub use protocol::{Action, Done, Doors, LinkId, NetworkEvent, Outlet, Protocol, RequestId, Want};
#[cfg(feature = "random")]
pub use random::{KeyedState, SecretRng, Seed, SeededRng};
pub use reason::{CloseReason, Closed, ClosedBy, DropReason, Fault, RequestError, Unmet};
pub use stack::{Output, Progress, Stack};
pub use time::{Now, Timestamp, UnixMillis};
pub use timers::Timers;
