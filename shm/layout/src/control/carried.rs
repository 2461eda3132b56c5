//! Which sources an IPv6 path carries.
//!
//! A provider takes what it routes back, and no other source (RFC 2827, RFC 8678 §3.1). This is the one
//! place that says so: workers ask it for each flow, the control process for probes and for what the
//! gateway itself sends, and its table of nftables says the same of what the kernel forwards.

use super::{PathPrefix, Translate, is_unrouted};

/// Does the uplink's provider delegate a prefix that has the address?
#[inline]
pub fn delegates(prefixes: &[PathPrefix], uplink: u8, address: [u8; 16]) -> bool {
    prefixes.iter().any(|prefix| prefix.uplink == uplink && prefix.is_outside(address))
}

/// Does another provider delegate it, and this uplink's not?
pub fn is_anothers(prefixes: &[PathPrefix], uplink: u8, address: [u8; 16]) -> bool {
    let delegated = prefixes.iter().any(|prefix| prefix.is_outside(address));
    delegated && !delegates(prefixes, uplink, address)
}

/// Does the uplink's provider route the address back to the site? Where nothing is delegated, what
/// nobody delegates is the site's own, but for what [no provider routes](is_unrouted). Where a path
/// translates ports, the addresses of its pool alone are.
#[inline]
pub fn is_routed_back(
    prefixes: &[PathPrefix],
    uplink: u8,
    translate: Translate,
    address: [u8; 16],
) -> bool {
    match translate {
        Translate::None => {
            let delegated = prefixes.iter().any(|prefix| prefix.is_outside(address));
            !delegated && !is_unrouted(address)
        }
        Translate::Npt | Translate::Source => delegates(prefixes, uplink, address),
        Translate::Napt => false,
    }
}

/// May packets of hosts with this source leave by the uplink: as they are, or with one that is routed
/// back?
#[inline]
pub fn carries(
    prefixes: &[PathPrefix],
    uplink: u8,
    translate: Translate,
    source: [u8; 16],
) -> bool {
    match translate {
        Translate::Napt => true,
        Translate::Npt => {
            prefixes.iter().any(|prefix| prefix.uplink == uplink && prefix.is_inside(source))
        }
        Translate::None | Translate::Source => is_routed_back(prefixes, uplink, translate, source),
    }
}

/// Does the uplink translate the source to its provider's prefix, where no uplink that carries it is to
/// be had?
pub fn rescues(
    prefixes: &[PathPrefix],
    uplink: u8,
    translate: Translate,
    source: [u8; 16],
) -> bool {
    let mut own = prefixes.iter().filter(|prefix| prefix.uplink == uplink);
    translate == Translate::Source && own.any(|prefix| prefix.is_inside(source))
}
