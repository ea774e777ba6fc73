//! Log lines, to standard error: standard output belongs to results.

use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt, util::TryInitError};

use crate::config::{LogConfig, LogFormat};

/// Starts logging for the whole process.
///
/// # Errors
/// Logging was started before: the caller's fault.
pub fn start(config: &LogConfig) -> Result<(), TryInitError> {
    // A `LogConfig` holds a filter that parses; a lossy reading of it loses nothing.
    let filter = EnvFilter::builder().parse_lossy(config.filter());
    let registry = registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match config.format() {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
}
