//! Whom the operator lets in always, alone, or never, as it is written.

use core::str::FromStr;
use peerage_core::NodeId;
use peerage_transport::proto::peer_manager::Rule;
use serde::{Deserialize, Serialize};

/// Text that stands in a configuration and is checked as it is read.
macro_rules! in_text {
    ($($name:ident($inner:ty): $doc:literal;)*) => { $(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "crate::hex::text")] pub $inner);

        impl FromStr for $name {
            type Err = <$inner as FromStr>::Err;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )* };
}

in_text! {
    Trusted(NodeId): "A node that is always let in: its identity, 64 hexadecimal digits.";
    ListLine(Rule): "A line of the lists `allow` and `deny`: an identity, an address, or a range of addresses as 192.0.2.0/24.";
}
