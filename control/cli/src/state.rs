//! What shared memory says, as all views read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use weir_layout::Family;
use weir_layout::control::Address;
use weir_shm::Pins;
use weir_shm::published::Published;

use super::flows::INSIDE;

/// The regions are there, and empty.
#[derive(Debug, thiserror::Error)]
#[error("nothing is published yet: start weir-control")]
pub struct NothingPublished;

/// Reads what is published.
pub fn published(pins: &Pins) -> Result<Published> {
    Ok(Published::open(pins)?.ok_or(NothingPublished)?)
}

/// The uplink's name; [`INSIDE`] of what stays inside.
pub fn uplink_name(state: &Published, uplink: u8) -> &str {
    state.uplink_name(uplink).unwrap_or(INSIDE)
}

/// An address of a family.
pub fn address(family: Family, address: Address) -> String {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(address.to_v4())),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(address.0)),
    }
    .to_string()
}
