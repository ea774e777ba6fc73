//! Mutual TLS over sockets: who gets in, who does not, and what both sides hear of it.

mod certificates;
mod members;
mod metered;
mod other;
mod reload;
mod stage;
