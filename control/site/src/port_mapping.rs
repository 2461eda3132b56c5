//! `[port_mapping]`: how much hosts of LANs may have that ask for ports.

use weir_layout::control::MAX_MAPPED;

use super::checker::Checker;
use super::schema::File;

/// How much hosts may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Ports outside that they may have, first and last.
    pub ports: (u16, u16),
    /// The longest lifetime, seconds.
    pub max_lifetime: u32,
    /// Ports of a host.
    pub per_host: u16,
}

/// The longest lifetime unless told otherwise, and the longest that may be told, seconds (RFC 6887
/// §15: a day).
const LIFETIME_S: u64 = 86_400;
/// Ports of a host unless told otherwise.
const PER_HOST: i64 = 32;

/// What the file says; `nat_ports` are what flows get, and no socket of the gateway.
pub fn limits(c: &mut Checker<'_>, file: &File, nat_ports: (u16, u16)) -> PortMapping {
    let default = PortMapping {
        ports: nat_ports,
        max_lifetime: LIFETIME_S as u32,
        per_host: PER_HOST as u16,
    };
    let Some(given) = &file.port_mapping else { return default };
    let ports = given.ports.as_ref().and_then(|text| {
        let range = c.range(text)?;
        if range.0 == 0 {
            c.refuse(text.span(), "port 0 is nobody's", "use 1 to 65535");
            return None;
        }
        Some(range)
    });
    let max_lifetime = c.seconds("max_lifetime", &given.max_lifetime, LIFETIME_S, LIFETIME_S);
    if let (0, Some(text)) = (max_lifetime, &given.max_lifetime) {
        let message = "max_lifetime \"0s\" lets nobody have anything";
        c.refuse(text.span(), message, "use 1s or more, or no `port_mapping` in any [[lan]]");
    }
    let most = MAX_MAPPED as i64 + 1;
    let per_host = c.number("per_host", &given.per_host, 1..most, PER_HOST);
    if !file.lan.iter().any(|lan| lan.get_ref().port_mapping) {
        c.warnings.push("[port_mapping] is for no LAN: none has port_mapping = true".into());
    }
    PortMapping {
        ports: ports.unwrap_or(default.ports),
        max_lifetime: max_lifetime as u32,
        per_host: per_host as u16,
    }
}
