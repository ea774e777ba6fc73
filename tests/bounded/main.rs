//! The bound on memory: whatever peers offer, a node holds no more than `docs/bounds.md` says.
//!
//! The node under attack is a process of its own (this binary, started again), so that what the machine and the allocator
//! say of it is about it alone. The attackers live here. Each story offers ten times the budget and then compares three
//! things that know nothing of each other: the ledger, an allocator that counts, and the resident memory of the process.
//!
//! `cargo test -p system-tests --test bounded -- --nocapture` prints the figures.

mod attack;
mod bound;
mod crowd;
mod hand;
mod stage;
mod victim;

use attack::Flood;
use stage::{Figures, Story, tell};
use victim::Plan;

/// Counts what the process holds, and the most that it ever held.
#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

const CHARGING: Plan = Plan { charging: true, open_port: false, blocks: false };

/// The victim's part in every story; without one there is nothing to do.
#[test]
fn the_process_of_a_victim() {
    if crowd::run() {
        return;
    }
    if let Some(plan) = victim::plan() {
        victim::run(&plan);
    }
}

/// Those first of which the victim is not rid for long.
#[test]
fn no_flood_of_ten_budgets_passes_the_bound() {
    let with_blocks = Plan { blocks: true, ..CHARGING };
    let stories = [
        Story::of(Flood::Fragments, CHARGING),
        Story::stalled(Flood::Large, CHARGING),
        Story::of(Flood::Items, CHARGING),
        Story::stalled(Flood::All, with_blocks),
        Story::of(Flood::Transactions, CHARGING),
        Story::stalled(Flood::Small, CHARGING),
        Story::of(Flood::Records, CHARGING),
        Story::of(Flood::Answers, with_blocks),
        Story::of(Flood::Questions, CHARGING),
        Story::of(Flood::HalfOpen, Plan { open_port: true, ..CHARGING }),
    ];
    tell(&stories).iter().for_each(Figures::hold);
}

/// The same floods as above and the same bound: it is charging that makes it hold.
#[test]
fn without_charging_the_bound_is_broken() {
    let uncharged = Plan { charging: false, ..CHARGING };
    let stories =
        [Story::stalled(Flood::Large, uncharged), Story::of(Flood::Answers, Plan { blocks: true, ..uncharged })];
    tell(&stories).iter().for_each(Figures::break_the_bound);
}

/// Fifty who read nothing, twenty who talk nonsense, twenty who send all they can: a hundred and ten others do not notice.
#[test]
fn of_two_hundred_peers_ninety_do_harm_and_nobody_else_loses_a_message() {
    let told = crowd::tell(true);
    told.nobody_honest_noticed();
    told.stays_within_the_budget();
}

#[test]
fn without_charging_the_same_crowd_passes_the_budget() {
    let told = crowd::tell(false);
    told.nobody_honest_noticed();
    told.passes_the_budget();
}
