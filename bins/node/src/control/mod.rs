//! Control of a running node over the Unix socket in its data directory.
//!
//! Lines of JSON, one request or answer a line:
//!
//! ```text
//! > {"id":1,"method":"get","params":{"key":"61"}}
//! < {"id":1,"result":{"value":{"value":"62","version":1,"height":9,"proof":null}}}
//! > {"id":2,"method":"watch"}
//! < {"id":2,"result":"watching"}
//! < {"event":"committed","height":10,"ids":["..."],"unix_nanos":1767225600000000000}
//! ```
//! Whoever may open the socket may do everything here; its mode is 0600 and the directory's 0700.

mod client;
mod known;
mod line;
mod peers;
mod protocol;
mod server;
#[cfg(test)]
mod tests;
mod traffic;

pub use client::{ClientError, ControlClient, EventStream};
pub use known::{NotDialled, PeerHead, PoolState, Story, Timing};
pub use line::{LineError, LineReader};
pub use peers::{BanState, LimitChange, Limits, List, Lists, Peer, PeerOrder};
pub use protocol::{
    AccountState, Answer, DropCause, ErrorCode, Event, Happening, Inclusion, Outcome, Question, Refusal, Request,
    Response, Said, Status, TxState, Value,
};
pub use server::{BindError, ControlCall, ControlServer, MAX_REQUEST_BYTES};
pub use traffic::Traffic;
