//! Commands on their way from the stack task to the task of a connection: handed over in batches, one wake-up a batch, and
//! no memory while nothing is under way.

use core::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};
use peerage_core::{ConnectionCommand, DropReason};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::link::count_dropped;

/// A new mailbox: the end of the stack task, and that of the link task.
pub(super) fn mailbox() -> (Post, Mail) {
    let shared = Arc::new(Shared { closed: AtomicBool::new(false), slot: Mutex::default() });
    (Post(Arc::clone(&shared)), Mail(shared))
}

#[derive(Debug)]
struct Shared {
    /// Whether the link task is gone: a hint without the lock.
    closed: AtomicBool,
    slot: Mutex<Slot>,
}

/// What is under way; charged by whoever put it there.
#[derive(Debug, Default)]
struct Slot {
    commands: Vec<ConnectionCommand>,
    reader: Option<Waker>,
    /// Nobody will put anything in any more.
    ended: bool,
    /// Nobody will take anything out any more.
    closed: bool,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing in here can panic half-way.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the stack task puts commands. When it is dropped, the link task hears of it.
#[derive(Debug)]
pub(super) struct Post(Arc<Shared>);

impl Post {
    /// Whether the link task is gone, so that what is put in would be lost.
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Relaxed)
    }

    /// Hands over all of `commands`, which is empty afterwards, and wakes the link task; drops them if that is gone.
    pub(super) fn put(&self, commands: &mut Vec<ConnectionCommand>) {
        if let Some(reader) = self.leave(commands) {
            reader.wake();
        }
    }

    /// The same without waking: the link task if it sleeps, for the caller to wake it or to do its work.
    #[must_use = "whoever sleeps must be woken"]
    pub(super) fn leave(&self, commands: &mut Vec<ConnectionCommand>) -> Option<Waker> {
        let mut slot = self.0.slot();
        if slot.closed {
            drop(slot);
            count_lost(commands);
            commands.clear();
            return None;
        }
        if slot.commands.is_empty() {
            core::mem::swap(&mut slot.commands, commands);
        } else {
            slot.commands.append(commands);
        }
        slot.reader.take()
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        let mut slot = self.0.slot();
        slot.ended = true;
        if let Some(reader) = slot.reader.take() {
            drop(slot);
            reader.wake();
        }
    }
}

/// What the link task finds in its mailbox.
#[derive(Debug)]
pub(super) enum Found {
    /// These; nothing may be left.
    Commands(Vec<ConnectionCommand>),
    /// Nothing yet.
    Nothing,
    /// Nothing, now or ever.
    Ended,
}

/// Where the link task takes commands out. When it is dropped, so is whatever is still under way.
#[derive(Debug)]
pub(super) struct Mail(Arc<Shared>);

impl Mail {
    /// Takes out all that is there; the task of `cx` is woken once there is more.
    pub(super) fn take(&self, cx: &Context<'_>) -> Found {
        let mut slot = self.0.slot();
        match &mut slot.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if !slot.commands.is_empty() {
            Found::Commands(core::mem::take(&mut slot.commands))
        } else if slot.ended {
            Found::Ended
        } else {
            Found::Nothing
        }
    }
}

impl Mail {
    /// Waits until the connection is to end, or nobody knows of it any more; takes nothing out.
    pub(super) async fn told_to_end(&self) {
        poll_fn(|cx| {
            let mut slot = self.0.slot();
            if slot.ended || slot.commands.iter().any(|command| matches!(command, ConnectionCommand::Close(_))) {
                return Poll::Ready(());
            }
            slot.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.0.closed.store(true, Relaxed);
        let mut slot = self.0.slot();
        slot.closed = true;
        let lost = core::mem::take(&mut slot.commands);
        drop(slot);
        count_lost(&lost);
    }
}

/// Counts messages that no connection will take; a request fails with its connection.
fn count_lost(commands: &[ConnectionCommand]) {
    let lost = commands
        .iter()
        .filter(|command| matches!(command, ConnectionCommand::Notify(_) | ConnectionCommand::Respond { .. }));
    let lost = lost.count();
    if lost > 0 {
        count_dropped(DropReason::ConnectionLost, lost as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_core::{Class, CloseReason};
    use std::{
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
    };

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn commands(count: usize) -> Vec<ConnectionCommand> {
        (0..count).map(|bytes| ConnectionCommand::Consumed { class: Class::Bulk, bytes }).collect()
    }

    fn found(mail: &Mail, waker: &Waker) -> usize {
        match mail.take(&Context::from_waker(waker)) {
            Found::Commands(commands) => commands.len(),
            Found::Nothing => 0,
            Found::Ended => usize::MAX,
        }
    }

    #[test]
    fn batches_arrive_together_in_order_and_wake_a_sleeper_once() {
        let (post, mail) = mailbox();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert_eq!(found(&mail, &waker), 0);
        post.put(&mut commands(2));
        post.put(&mut commands(3));
        assert_eq!(woken.0.load(Relaxed), 1, "who is awake need not be woken");
        let Found::Commands(all) = mail.take(&Context::from_waker(&waker)) else { panic!("five commands") };
        let bytes: Vec<_> = all
            .iter()
            .map(|command| match command {
                ConnectionCommand::Consumed { bytes, .. } => *bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(bytes, [0, 1, 0, 1, 2]);
        post.put(&mut commands(1));
        assert_eq!(woken.0.load(Relaxed), 2, "who took something sleeps until there is more");
        assert_eq!(found(&mail, &waker), 1);
        assert_eq!(mail.0.slot().commands.capacity(), 0, "an empty mailbox holds no memory");
    }

    #[test]
    fn whoever_is_still_at_the_door_hears_that_it_is_to_end() {
        let (post, mail) = mailbox();
        let waker = Waker::noop();
        let mut told = core::pin::pin!(mail.told_to_end());
        post.put(&mut commands(1));
        assert!(told.as_mut().poll(&mut Context::from_waker(waker)).is_pending(), "that is something else");
        post.put(&mut vec![ConnectionCommand::Close(CloseReason::HalfOpenLimit)]);
        assert!(told.as_mut().poll(&mut Context::from_waker(waker)).is_ready());
        assert_eq!(found(&mail, waker), 2, "both are still there");
    }

    #[test]
    fn the_end_of_either_side_is_heard_by_the_other() {
        let (post, mail) = mailbox();
        let waker = Waker::from(Arc::new(Woken::default()));
        post.put(&mut vec![ConnectionCommand::Close(CloseReason::Shutdown)]);
        drop(post);
        assert_eq!(found(&mail, &waker), 1, "what was said before the end is heard");
        assert_eq!(found(&mail, &waker), usize::MAX);

        let (post, mail) = mailbox();
        drop(mail);
        let mut late = commands(1);
        post.put(&mut late);
        assert!(post.is_closed() && late.is_empty(), "what nobody can take is dropped, and with it what pays for it");
    }
}
