//! `weir`, the command line.

use std::process::ExitCode;

use clap::Parser;
use weir_control::cli::{self, Arguments};

fn main() -> ExitCode {
    ExitCode::from(cli::run(&Arguments::parse()) as u8)
}
