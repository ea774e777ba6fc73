#![doc = include_str!("../README.md")]

pub mod array;
mod budget;
mod class;
mod connection;
mod id;
mod job;
mod message;
mod protocol;
pub mod queue;
mod random;
mod reason;
mod stack;
mod time;
mod timers;

pub use budget::{Account, Budget, BudgetReport, Charge, OverBudget, Owed, Pool};
pub use class::{Class, PerClass};
pub use connection::{Connection, ConnectionCommand, ConnectionEvent, DialKey, LinkInfo, Outbound};
pub use id::{NetworkId, NodeId, ParseIdError};
pub use job::{Cost, Job, JobId, Lane, NoJob};
pub use message::{Command, Layer, Message};
pub use protocol::{Action, Done, LinkId, NetworkEvent, Outlet, Protocol, RequestId, Want};
pub use random::{KeyedState, SecretRng, Seed, SeededRng};
pub use reason::{CloseReason, Closed, ClosedBy, DropReason, Fault, RequestError, Unmet};
pub use stack::{Output, Progress, Stack};
pub use time::{Now, Timestamp, UnixMillis};
pub use timers::Timers;
