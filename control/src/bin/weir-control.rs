//! `weir-control`, the control process.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weir_control::daemon::{self, Options};

/// The control process of weir: reads the configuration, follows the kernel, publishes uplinks,
/// weights and policies to the dataplane. SIGHUP reloads the configuration.
#[derive(Debug, Parser)]
#[command(version, long_about = None)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = "/etc/weir/weir.toml")]
    config: PathBuf,
    /// Directory of the shared memory, on a BPF file system.
    #[arg(long, default_value = weir_shm::pins::DEFAULT_DIRECTORY)]
    pins: PathBuf,
    /// Socket of the API.
    #[arg(long, default_value = weir_api::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Directory for what is kept on disk: the last good configuration, and who set what by hand.
    #[arg(long, default_value = weir_control::state::DEFAULT_DIRECTORY)]
    state: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    weir_service::run("weir-control", || run(arguments))
}

fn run(Arguments { config, pins, socket, state }: Arguments) -> Result<()> {
    // What decides about uplinks is not to wait for the load that they carry.
    if let Err(error) = rustix::process::nice(-10) {
        tracing::debug!("no higher priority: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = Options { config, pins, socket, state };
    // As a task: tokio wakes what `block_on` itself waits for by a system call each time.
    let done = runtime.block_on(async { tokio::spawn(daemon::run(options)).await });
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
