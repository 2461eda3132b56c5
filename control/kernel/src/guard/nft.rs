//! Running `nft`.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// No run takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `nft` with this on its standard input; what it printed.
///
/// # Errors
/// When it is not there, does not end in time, or refuses, with its words.
pub async fn nft(arguments: &[&str], input: &str) -> Result<String> {
    let run = async {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run nft, of the package nftables")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that refuses may close it early; its words matter more.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await.context("cannot wait for nft")
    };
    let ended = tokio::time::timeout(PATIENCE, run).await;
    let output = ended.with_context(|| format!("nft did not end within {PATIENCE:?}"))??;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
