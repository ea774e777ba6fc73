//! What one node says to another.

use bytes::Bytes;
use core::fmt;

use crate::Class;

/// The owner of a range of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Layer {
    /// Heartbeat, credit, close.
    Transport = 0,
    /// Kademlia.
    Discovery = 1,
    /// Dissemination.
    Gossip = 2,
    /// Transactions, blocks, sync.
    Chain = 3,
    /// Whoever builds on the stack.
    Application = 8,
}

/// The number of a message kind: `layer (8 bits) | index in the layer (5 bits) | class (3 bits)`.
///
/// The class is part of the number, so that a node credits and prioritises even a command that it does not know, and
/// a message can change only by getting a new number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Command(u16);

impl Command {
    /// Command `index` (below 32) of a layer.
    ///
    /// # Panics
    /// If `index` is 32 or more: a mistake in a constant, found when that constant is compiled.
    pub const fn new(layer: Layer, index: u8, class: Class) -> Self {
        assert!(index < 32, "a layer has 32 commands");
        Self((layer as u16) << 8 | (index as u16) << 3 | class as u16)
    }

    /// The command with this number; `None` where its class bits name no class.
    pub const fn from_u16(number: u16) -> Option<Self> {
        match Class::from_u8((number & 7) as u8) {
            Some(_) => Some(Self(number)),
            None => None,
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The class in which messages of this kind travel.
    pub const fn class(self) -> Class {
        match Class::from_u8((self.0 & 7) as u8) {
            Some(class) => class,
            None => unreachable!(), // both constructors refuse such a number
        }
    }

    /// Whether this command is in the range of `layer`.
    pub const fn belongs_to(self, layer: Layer) -> bool {
        self.0 >> 8 == layer as u16
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}/{}", self.0 >> 8, self.0 >> 3 & 31, self.class().label())
    }
}

/// One message: a small structured head and, where there is one, an opaque body that is never copied per hop.
///
/// Cloning shares the bytes. Encoded once for all recipients.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// What kind of message this is; its class follows from it.
    pub command: Command,
    /// Canonical postcard of the kind's own type.
    pub head: Bytes,
    /// Opaque, reference-counted bytes: an item, a block.
    pub body: Option<Bytes>,
}

impl Message {
    /// A message without a body.
    pub fn new(command: Command, head: impl Into<Bytes>) -> Self {
        Self { command, head: head.into(), body: None }
    }

    /// A message with a body.
    pub fn with_body(command: Command, head: impl Into<Bytes>, body: impl Into<Bytes>) -> Self {
        Self { command, head: head.into(), body: Some(body.into()) }
    }

    /// Bytes of head and body together.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.as_ref().map_or(0, Bytes::len)
    }

    /// Whether the message carries no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Message({:?}, head {} B, body {:?} B)",
            self.command,
            self.head.len(),
            self.body.as_ref().map(Bytes::len)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_knows_its_layer_and_class_from_its_number_alone() {
        let vote = Command::new(Layer::Application, 31, Class::Consensus);
        let again = Command::from_u16(vote.number()).expect("valid class bits");
        assert_eq!((again, again.class()), (vote, Class::Consensus));
        assert!(again.belongs_to(Layer::Application) && !again.belongs_to(Layer::Gossip));
        assert_eq!(Command::from_u16(7), None, "class bits 5 to 7 name no class");
    }
}
