//! Why, over real sockets: each reason for which a connection ends or a message is dropped has a story that brings it about.
//!
//! [`closes`] and [`drops`] begin with a `match` over every reason there is, so that one without a story does not compile. A
//! story is told between two drivers over TCP on loopback, or by hand against one, and hands over what came of it. That is
//! compared here: what the node's stack was told, what the other side was told or recorded, that the counter with this label
//! rose by one and no other, and that the flight recorder of the peer tells the same.
//!
//! Stories run one at a time, since counters belong to the process.

#![cfg(feature = "tokio")]

#[cfg(feature = "tls")]
#[path = "../sockets/authority.rs"]
mod authority;
#[cfg(feature = "tls")]
mod certificates;
mod closes;
#[path = "../sockets/counters.rs"]
mod counters;
mod drops;
#[path = "../sockets/hand.rs"]
#[expect(dead_code, reason = "shared with the hostile stories")]
mod hand;
#[path = "../sockets/stage.rs"]
#[expect(dead_code, reason = "shared with the hostile stories")]
mod stage;
#[cfg(feature = "tls")]
#[path = "../sockets/stranger.rs"]
#[expect(dead_code, reason = "shared with the stories of the driver")]
mod stranger;
#[path = "../sockets/victim.rs"]
#[expect(dead_code, reason = "shared with the hostile stories")]
mod victim;
mod witness;

use peerage_core::{CloseReason, DropReason};

use stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_to_end_a_connection_is_told_counted_and_recorded_alike_on_both_sides() {
    for reason in CloseReason::ALL {
        let stage = Stage::set().await;
        match closes::story(*reason).await {
            Some(ended) => ended.check(*reason, &stage).await,
            None => println!("{reason}: by the machine alone"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_to_drop_a_message_is_told_counted_and_recorded_alike() {
    for reason in DropReason::ALL {
        let stage = Stage::set().await;
        match drops::story(*reason).await {
            Some(dropped) => dropped.check(*reason, &stage).await,
            None => println!("{reason}: by the machine alone"),
        }
    }
}
