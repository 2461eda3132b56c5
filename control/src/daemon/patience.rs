//! Waiting, but not for ever.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use weir_api::time;

/// How long the kernel may take for an answer.
pub(super) const KERNEL_PATIENCE: Duration = Duration::from_secs(3);
/// The same while nothing waits for this process yet: it may have a million routes to tell.
pub(super) const KERNEL_PATIENCE_AT_START: Duration = Duration::from_secs(30);

/// Returns when it is `deadline`, in milliseconds of CLOCK_MONOTONIC; never without one.
pub(super) async fn sleep_until(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            // A millisecond more, lest the clock's fraction make it early.
            let left = (deadline + 1).saturating_sub(time::monotonic_ms());
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}

/// Waits for the kernel, but not for ever.
///
/// # Errors
/// When it takes longer than this.
pub(super) async fn in_time<T>(patience: Duration, kernel: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, kernel).await.map_err(|_| unanswered(patience))
}

pub(super) fn unanswered(patience: Duration) -> anyhow::Error {
    anyhow!("the kernel has not answered for {} s", patience.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_waits_for_the_kernel_but_not_for_ever() {
        let patience = Duration::from_millis(10);
        assert_eq!(in_time(patience, async { 7 }).await.unwrap(), 7);
        let error = in_time(patience, std::future::pending::<()>()).await.unwrap_err();
        assert!(error.to_string().contains("has not answered"), "{error}");
    }
}
