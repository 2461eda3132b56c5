//! Who keeps rules and routes in a network namespace: one control process.
//!
//! Tables, priorities and marks are the namespace's, so two gateways there would take each other's
//! for their own. The claim is an abstract socket, unix(7): its name is the namespace's too, and goes
//! with its process, however that ends.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const NAME: &str = "weir-own-traffic";
/// A name has at most 108 bytes with what is said of the process.
const LONGEST_PATH: usize = 60;

/// The claim of a gateway, which it may have or not.
#[derive(Debug)]
pub struct Keeper {
    pins: PathBuf,
    claim: Option<Claim>,
}

impl Keeper {
    /// One that has none.
    pub const fn new(pins: PathBuf) -> Self {
        Self { pins, claim: None }
    }

    /// Takes the claim unless it has it.
    ///
    /// # Errors
    /// As [`Claim::take`].
    pub fn take(&mut self) -> Result<()> {
        if self.claim.is_none() {
            self.claim = Some(Claim::take(&self.pins)?);
        }
        Ok(())
    }

    /// Are rules and routes its to keep?
    pub const fn keeps(&self) -> bool {
        self.claim.is_some()
    }

    /// Leaves them to others.
    pub fn release(&mut self) {
        self.claim = None;
    }
}

/// The right to keep them, until dropped.
#[derive(Debug)]
pub struct Claim {
    _held: UnixDatagram,
    /// Its name says whose the claim is.
    _told: Option<UnixDatagram>,
}

impl Claim {
    /// Takes it for the gateway of these pins.
    ///
    /// # Errors
    /// When another process has it; the error names it.
    pub fn take(pins: &Path) -> Result<Self> {
        let held = match bind(NAME) {
            Ok(held) => held,
            Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
                "{} keeps the rules and routes for what the gateway itself sends in this network \
                 namespace, and there is one set of them: write own_traffic = false under \
                 [gateway] of one of the two files, or stop the other",
                holder().unwrap_or_else(|| "another weir-control".into())
            ),
            Err(error) => return Err(error).context("cannot claim rules and routes"),
        };
        let mut path = pins.display().to_string();
        path.truncate(path.floor_char_boundary(LONGEST_PATH));
        let told = format!("{NAME}: process {} with --pins {path}", std::process::id());
        Ok(Self { _held: held, _told: bind(&told).ok() })
    }
}

fn bind(name: &str) -> std::io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Whose the claim is. Abstract names have an `@` in front there, proc_net_unix(5).
fn holder() -> Option<String> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    let told = format!("@{NAME}: ");
    let holder = sockets.lines().find_map(|line| line.split_once(&told))?.1;
    Some(format!("weir-control, {}", holder.trim()))
}
