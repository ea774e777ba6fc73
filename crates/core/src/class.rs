//! The five priority classes.

use core::ops::{Index, IndexMut};

/// How urgent a message is. Absolute and preemptive: while a message of a higher class can be sent, none of a lower one
/// is begun or continued. The first is the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Heartbeat, flow control, close. Only the transport sends these.
    Control = 0,
    /// Votes and whatever else ordering waits for.
    Consensus = 1,
    /// Headers, announcements, wants, haves, lookups: small and wanted soon.
    Signal = 2,
    /// Items and chunks of items.
    Gossip = 3,
    /// Synchronisation and snapshots: large and patient.
    Bulk = 4,
}

impl Class {
    /// All classes, highest first.
    pub const ALL: [Self; 5] = [Self::Control, Self::Consensus, Self::Signal, Self::Gossip, Self::Bulk];

    /// The class with this number, if there is one.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Control),
            1 => Some(Self::Consensus),
            2 => Some(Self::Signal),
            3 => Some(Self::Gossip),
            4 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// A stable lower-case name, used as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Consensus => "consensus",
            Self::Signal => "signal",
            Self::Gossip => "gossip",
            Self::Bulk => "bulk",
        }
    }
}

/// One value for each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerClass<T>(pub [T; 5]);

impl<T> PerClass<T> {
    /// Builds the five values, highest class first.
    pub fn from_fn(mut value: impl FnMut(Class) -> T) -> Self {
        Self(Class::ALL.map(&mut value))
    }

    /// The values with their classes, highest class first.
    pub fn iter(&self) -> impl Iterator<Item = (Class, &T)> {
        Class::ALL.into_iter().zip(&self.0)
    }
}

impl<T> Index<Class> for PerClass<T> {
    type Output = T;

    fn index(&self, class: Class) -> &T {
        &self.0[class as usize]
    }
}

impl<T> IndexMut<Class> for PerClass<T> {
    fn index_mut(&mut self, class: Class) -> &mut T {
        &mut self.0[class as usize]
    }
}
