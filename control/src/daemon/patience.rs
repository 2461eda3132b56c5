//! Waiting, but not for ever.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// How long the kernel may take for an answer.
pub(super) const KERNEL_PATIENCE: Duration = Duration::from_secs(3);
/// The same while nothing waits for this process yet: it may have a million routes to tell.
pub(super) const KERNEL_PATIENCE_AT_START: Duration = Duration::from_secs(30);

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
