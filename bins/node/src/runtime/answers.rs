//! Questions from the control socket, and the chain's events that answer them.

use peerage_chain::proto::{
    AccountStatus, Event as ChainEvent, Refusal as ChainRefusal, Status as ChainStatus, TransactionStatus, Unavailable,
};
use peerage_wire::payload;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};
use tokio::sync::{broadcast, oneshot};

use crate::{
    clock::unix_nanos,
    control::{AccountState, ErrorCode, Event, Inclusion, Refusal, Response, TxState, Value},
};

/// What waits for one answer of the chain.
pub(super) enum Waiting {
    /// The answer goes to the client as it is.
    Client(oneshot::Sender<Result<Response, Refusal>>),
    /// The node needs the chain's status to answer something else.
    Status(oneshot::Sender<ChainStatus>),
    /// Account and status make up one answer.
    Account(oneshot::Sender<Result<AccountStatus, Unavailable>>),
}

/// Open questions by token. Bounded by the clients of the control socket, each of which waits for its answer.
#[derive(Default)]
pub(super) struct Answers {
    open: Mutex<(u64, BTreeMap<u64, Waiting>)>,
}

impl Answers {
    /// A token under which the answer will come.
    pub(super) fn ask(&self, waiting: Waiting) -> u64 {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 += 1;
        let token = open.0;
        open.1.insert(token, waiting);
        token
    }

    fn take(&self, token: u64) -> Option<Waiting> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&token)
    }

    fn answer(&self, token: u64, answer: Result<Response, Refusal>) {
        if let Some(Waiting::Client(reply)) = self.take(token) {
            // The client may have hung up.
            let _unheard = reply.send(answer);
        }
    }

    /// Answers what the event answers and tells watchers what they should know. Called on the stack task: quick.
    pub(super) fn heard(&self, event: ChainEvent, watchers: &broadcast::Sender<Event>) {
        let tell = |event: Event| {
            // Nobody may be watching.
            let _unheard = watchers.send(event);
        };
        match event {
            ChainEvent::Submitted { token, result } => {
                if let Ok(id) = &result {
                    tell(Event::Acked { id: *id, unix_nanos: unix_nanos() });
                }
                self.answer(token, result.map(|id| Response::Submitted { id }).map_err(refusal));
            }
            ChainEvent::Got { token, result } => self.answer(
                token,
                result.map_err(unavailable).map(|proved| {
                    let entry = proved.entry.as_ref();
                    Response::Value(Value {
                        value: entry.map(|entry| entry.value.clone()),
                        version: entry.map_or(0, |entry| entry.version),
                        height: proved.head.height,
                        proof: Some(payload::to_bytes(&proved.proof)),
                    })
                }),
            ),
            ChainEvent::Transaction { token, result } => self.answer(
                token,
                result.map_err(unavailable).map(|status| {
                    Response::TxStatus(match status {
                        TransactionStatus::Unknown => TxState::Unknown,
                        TransactionStatus::Pending => TxState::Pending,
                        TransactionStatus::Committed(location) => TxState::Committed(Inclusion {
                            height: location.height,
                            index: location.index,
                            outcome: location.receipt.into(),
                        }),
                    })
                }),
            ),
            ChainEvent::Account { token, result } => {
                if let Some(Waiting::Account(reply)) = self.take(token) {
                    let _unheard = reply.send(result);
                }
            }
            ChainEvent::Status { token, status } => {
                if let Some(Waiting::Status(reply)) = self.take(token) {
                    let _unheard = reply.send(*status);
                }
            }
            ChainEvent::TxAccepted { id } => tell(Event::Accepted { id, unix_nanos: unix_nanos() }),
            ChainEvent::BlockCommitted { head, transactions } => {
                let ids: Vec<_> = transactions.into_iter().map(|(id, _)| id).collect();
                tracing::info!(height = head.height, transactions = ids.len(), block = %head.id, "block committed");
                tell(Event::Committed { height: head.height, ids, unix_nanos: unix_nanos() });
            }
            ChainEvent::TxDropped { id, cause } => {
                tracing::info!(%id, ?cause, "transaction dropped");
                tell(Event::Dropped { id, cause: cause.into() });
            }
            ChainEvent::CertifiedBlockInvalid { height, error } => {
                tracing::error!(height, %error, "a block of the producer's does not count");
                metrics::counter!("peerage_blocks_refused_total", "reason" => error.label()).increment(1);
            }
            ChainEvent::BlockRefused { from, error } => {
                tracing::debug!(%from, %error, "block refused");
                metrics::counter!("peerage_blocks_refused_total", "reason" => error.label()).increment(1);
            }
            ChainEvent::TxRefused { from, refusal } => {
                tracing::trace!(%from, %refusal, "transaction refused");
                metrics::counter!("peerage_transactions_refused_total", "reason" => refusal.label()).increment(1);
            }
            ChainEvent::ClockDiffers { height, apart, ahead } => tracing::warn!(
                height,
                "the time of a block is about {} s {} this machine's clock: see that this clock is right (`date -u`); if it \
                 is, the producer's is not: tell its operator",
                apart.as_secs(),
                if ahead { "ahead of" } else { "behind" }
            ),
            ChainEvent::Ready { head, outbox } => tracing::info!(height = head.height, outbox, "store open"),
            // Blocks are not asked for here; gossip's part is done within the stack; a failed store ends the node.
            ChainEvent::Block { .. } | ChainEvent::Gossip(_) | ChainEvent::StoreFailed(_) => {}
        }
    }
}

/// The answer about an account, out of its two halves.
pub(super) fn account_state(chain_id: u64, account: AccountStatus, height: u64) -> Response {
    Response::Account(AccountState { chain_id, next_nonce: account.first_free, height })
}

fn refusal(refusal: ChainRefusal) -> Refusal {
    let code = match refusal {
        ChainRefusal::PoolFull | ChainRefusal::OverBudget => ErrorCode::Busy,
        ChainRefusal::StoreFailed => ErrorCode::Internal,
        _ => ErrorCode::TxRejected,
    };
    Refusal::new(code, refusal)
}

pub(super) fn unavailable(unavailable: Unavailable) -> Refusal {
    Refusal::new(ErrorCode::Internal, unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::DropCause;
    use peerage_chain::proto::{DropCause as ChainDropCause, id::TxId};

    #[test]
    fn the_nonce_to_use_fills_the_gap_before_what_waits() {
        let status = AccountStatus { next_nonce: 5, pending: 1, first_free: 5 };
        let expected = AccountState { chain_id: 7, next_nonce: 5, height: 9 };
        assert_eq!(account_state(7, status, 9), Response::Account(expected));
    }

    #[test]
    fn watchers_hear_why_a_transaction_was_dropped() {
        let (watchers, mut heard) = broadcast::channel(4);
        for (cause, said) in [
            (ChainDropCause::Expired, DropCause::Expired),
            (ChainDropCause::Superseded, DropCause::Superseded),
            (ChainDropCause::Evicted, DropCause::Evicted),
        ] {
            let id = TxId([7; 32]);
            Answers::default().heard(ChainEvent::TxDropped { id, cause }, &watchers);
            assert_eq!(heard.try_recv(), Ok(Event::Dropped { id, cause: said }));
        }
    }
}
