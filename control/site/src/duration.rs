//! Durations as people write them.

use jiff::SignedDuration;

/// `"10m"`, `"1h 30m"`, `"45s"`: whole seconds, at least one.
///
/// # Errors
/// What is wrong, with an example.
pub fn seconds(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("\"{text}\" is no duration: use one such as \"45s\", \"10m\" or \"1h 30m\"");
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    u64::try_from(duration.as_secs()).ok().filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(["45s", "10m", "1h 30m", "1h30m"].map(seconds), [45, 600, 5400, 5400].map(Ok));
        for bad in ["", "10", "-5m", "0s", "ten minutes"] {
            assert!(seconds(bad).unwrap_err().contains("10m"), "{bad}");
        }
    }
}
