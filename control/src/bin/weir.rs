//! `weir`, the command line.

use std::process::ExitCode;

use clap::Parser;
use weir_cli::Arguments;

fn main() -> ExitCode {
    ExitCode::from(weir_cli::run(&Arguments::parse()) as u8)
}
