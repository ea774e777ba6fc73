//! Values of variables of the environment.

use core::{fmt, str::FromStr};

use super::ConfigError;

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
