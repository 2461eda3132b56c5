//! Waiting until a moment of the clock that all deadlines are of.

use std::time::Duration;

use weir_api::time;

/// Returns when it is `deadline`, in milliseconds of CLOCK_MONOTONIC; never without one.
pub async fn until(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            // A millisecond more, lest the clock's fraction make it early.
            let left = (deadline + 1).saturating_sub(time::monotonic_ms());
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}
