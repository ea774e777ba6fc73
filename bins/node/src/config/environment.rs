//! Values of variables of the environment.

use core::{fmt, str::FromStr};

use super::ConfigError;

/// The variables of the environment.
pub(crate) const VARIABLES: &[&str] = &[
    "PEERAGE_LISTEN",
    "PEERAGE_ADVERTISE",
    "PEERAGE_SEEDS",
    "PEERAGE_RESERVED",
    "PEERAGE_TRUSTED",
    "PEERAGE_ALLOW",
    "PEERAGE_DENY",
    "PEERAGE_TARGET_PEERS",
    "PEERAGE_MAX_PEERS",
    "PEERAGE_OUTBOUND_PER_GROUP",
    "PEERAGE_BUDGET_BYTES",
    "PEERAGE_EGRESS_LIMIT",
    "PEERAGE_INGRESS_LIMIT",
    "PEERAGE_OUTBOX",
    "PEERAGE_COMPRESSION",
    "PEERAGE_SECURITY",
    "PEERAGE_TLS_CA",
    "PEERAGE_TLS_CERTIFICATE",
    "PEERAGE_TLS_KEY",
    "PEERAGE_TLS_CRL",
    "PEERAGE_LOG_FILTER",
    "PEERAGE_LOG_FORMAT",
];

/// A list, its parts separated by commas.
pub(super) fn list<T: FromStr<Err: fmt::Display>>(
    (name, text): (&'static str, Option<String>),
) -> Result<Option<Vec<T>>, ConfigError> {
    match text {
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(Some(vec![])),
        Some(text) => text.split(',').map(|part| parse(name, part)).collect::<Result<_, _>>().map(Some),
    }
}

pub(super) fn value<T: FromStr<Err: fmt::Display>>(
    (name, text): (&'static str, Option<String>),
) -> Result<Option<T>, ConfigError> {
    text.map(|text| parse(name, &text)).transpose()
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &'static str, text: &str) -> Result<T, ConfigError> {
    text.trim().parse().map_err(|error: T::Err| ConfigError::Variable { name, reason: format!("`{text}`: {error}") })
}
