//! Bounds on what a generator may be asked for.

use anyhow::{Result, ensure};

/// Checks that a count or size is positive and at most `most`.
///
/// # Errors
/// When it is not; the error names `what`.
pub fn bounded(what: &str, value: usize, most: usize) -> Result<()> {
    ensure!((1..=most).contains(&value), "{what} must be 1 to {most}, not {value}");
    Ok(())
}
