//! What the variables of the environment say.

use core::{fmt, str::FromStr};
use std::collections::BTreeMap;

use super::{ConfigError, Layer, LogLayer, TlsLayer};
use crate::toml_file::nearest;

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
    "PEERAGE_ACQUIRE_TIMEOUT",
    "PEERAGE_IDLE_TIMEOUT",
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

/// What the environment says.
pub(crate) fn layer_of(environment: impl IntoIterator<Item = (String, String)>) -> Result<Layer, ConfigError> {
    let mut ours = BTreeMap::new();
    for (name, value) in environment {
        if !name.starts_with("PEERAGE_") {
            continue;
        }
        match VARIABLES.iter().find(|known| **known == name) {
            Some(known) => {
                ours.insert(*known, value);
            }
            // Only what looks like a slip is refused: orchestrators put variables of their own beside ours, e.g.
            // `PEERAGE_SERVICE_HOST` for a service of this name. The prefix is left out, or everything would be near.
            None => {
                let known = VARIABLES.iter().find(|known| {
                    nearest(name.trim_start_matches("PEERAGE_"), &[known.trim_start_matches("PEERAGE_")]).is_some()
                });
                if let Some(suggestion) = known {
                    return Err(ConfigError::UnknownVariable { name, suggestion });
                }
            }
        }
    }
    let mut take = |name| (name, ours.remove(name));
    Ok(Layer {
        seeds: list(take("PEERAGE_SEEDS"))?,
        reserved: list(take("PEERAGE_RESERVED"))?,
        trusted: list(take("PEERAGE_TRUSTED"))?,
        allow: list(take("PEERAGE_ALLOW"))?,
        deny: list(take("PEERAGE_DENY"))?,
        listen: value(take("PEERAGE_LISTEN"))?,
        advertise: value(take("PEERAGE_ADVERTISE"))?,
        target_peers: value(take("PEERAGE_TARGET_PEERS"))?,
        max_peers: value(take("PEERAGE_MAX_PEERS"))?,
        outbound_per_group: value(take("PEERAGE_OUTBOUND_PER_GROUP"))?,
        acquire_timeout: value(take("PEERAGE_ACQUIRE_TIMEOUT"))?,
        idle_timeout: value(take("PEERAGE_IDLE_TIMEOUT"))?,
        budget_bytes: value(take("PEERAGE_BUDGET_BYTES"))?,
        egress_limit: value(take("PEERAGE_EGRESS_LIMIT"))?,
        ingress_limit: value(take("PEERAGE_INGRESS_LIMIT"))?,
        outbox: value(take("PEERAGE_OUTBOX"))?,
        compression: value(take("PEERAGE_COMPRESSION"))?,
        security: value(take("PEERAGE_SECURITY"))?,
        tls: TlsLayer {
            ca: value(take("PEERAGE_TLS_CA"))?,
            certificate: value(take("PEERAGE_TLS_CERTIFICATE"))?,
            key: value(take("PEERAGE_TLS_KEY"))?,
            crl: value(take("PEERAGE_TLS_CRL"))?,
        },
        log: LogLayer { filter: take("PEERAGE_LOG_FILTER").1, format: value(take("PEERAGE_LOG_FORMAT"))? },
    })
}

/// A list, its parts separated by commas.
fn list<T: FromStr<Err: fmt::Display>>(
    (name, text): (&'static str, Option<String>),
) -> Result<Option<Vec<T>>, ConfigError> {
    match text {
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(Some(vec![])),
        Some(text) => text.split(',').map(|part| parse(name, part)).collect::<Result<_, _>>().map(Some),
    }
}

fn value<T: FromStr<Err: fmt::Display>>(
    (name, text): (&'static str, Option<String>),
) -> Result<Option<T>, ConfigError> {
    text.map(|text| parse(name, &text)).transpose()
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &'static str, text: &str) -> Result<T, ConfigError> {
    text.trim().parse().map_err(|error: T::Err| ConfigError::Variable { name, reason: format!("`{text}`: {error}") })
}
