//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to wait for something that normally takes milliseconds. Generous, because reaching it
/// is a failure and a loaded machine is not.
pub const BOUND: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it returns `Some`.
///
/// # Errors
/// When `condition` fails, or still returns `None` after `bound`; the error names `what`.
pub fn until<T>(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("gave up after {bound:?} waiting for {what}");
        }
        std::thread::sleep(INTERVAL);
    }
}
