//! How long something waits, as it is written: `500ms`, `20s`, `5m`, `1h`.

use core::{fmt, str::FromStr, time::Duration};
use serde::{Deserialize, Serialize};

use crate::cli::parse_duration;

/// The longest `acquire_timeout` and `idle_timeout` (our guess; what shall stay belongs into `reserved`).
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A time that the pool of connections waits; an hour at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wait(#[serde(with = "crate::hex::text")] Text);

impl Wait {
    /// How long.
    pub const fn duration(self) -> Duration {
        self.0.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text(Duration);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

impl FromStr for Text {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wait = parse_duration(text)?;
        if wait > LONGEST_WAIT { Err("a timeout has an hour at most") } else { Ok(Self(wait)) }
    }
}

impl FromStr for Wait {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
