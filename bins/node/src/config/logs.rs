//! The settings about logs.

use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// What is logged if nothing else is said.
pub(super) const DEFAULT_FILTER: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("`text` or `json` is expected"),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub(super) filter: String,
    pub(super) format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: DEFAULT_FILTER.to_owned(), format: LogFormat::default() }
    }
}

impl LogConfig {
    /// Directives as `tracing-subscriber` reads them, e.g. `info,peerage_gossip=debug`; they parse.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// How lines look.
    pub const fn format(&self) -> LogFormat {
        self.format
    }
}

/// The part of a [`Layer`](super::Layer) about logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLayer {
    /// See [`LogConfig::filter`].
    pub filter: Option<String>,
    /// See [`LogConfig::format`].
    pub format: Option<LogFormat>,
}
