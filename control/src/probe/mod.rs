//! Probers, each bound to its uplink: device and source address, whatever the routing says.
//!
//! A probe is one short exchange: on a socket of its own, or by ICMP on the uplink's. How many
//! sockets there are at once is bounded by the limit of descriptors, see [`probers`]. What a probe
//! finds goes as an [`Event`]
//! to a channel; what it means is judged in [`health`](weir_health).
//!
//! | module | what it is |
//! |---|---|
//! | [`bind`] | sockets that leave by one uplink |
//! | [`probers`] | one task for each target, kept while its definition is |
//! | `icmp`, `tcp`, `http`, `dns` | one probe |
//! | `sniffer` | answers that come in and are not given to a probe |

pub mod bind;
mod dns;
mod http;
mod icmp;
pub mod probers;
mod sniffer;
mod tcp;

pub use bind::Binding;
pub use http::Trust;
pub use probers::{Event, Finding, ProbedUplink, Probers};

#[cfg(test)]
mod tests;

use std::io;

use rustix::io::Errno;
use weir_health::ProbeError;

/// What an error of a socket says of the path. That this machine cannot or will not send says nothing.
fn socket_error(error: &io::Error) -> ProbeError {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => ProbeError::Refused,
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => ProbeError::Unreachable,
        Some(Errno::TIMEDOUT) => ProbeError::Timeout,
        Some(errno) => ProbeError::Local(errno.raw_os_error()),
        None => ProbeError::Malformed,
    }
}
