//! What a router hears of a link: hosts that ask, and other routers.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::advertisement::{HEADER_LEN, option};

pub use crate::advertisement::ROUTER_ADVERTISEMENT;

/// ICMPv6 type (RFC 4861 §4.1).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Length of a solicitation without options.
const SOLICITATION_LEN: usize = 8;

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A host asks for an advertisement.
    Solicitation,
    /// Another router advertises itself.
    Advertisement {
        /// Seconds for which it is a default router; 0: it is none.
        router_lifetime: u16,
        /// Prefixes of which hosts may make addresses, and for how many seconds these are preferred.
        prefixes: Vec<(Ipv6Net, u32)>,
    },
}

/// What an ICMPv6 message says that `from` sends; none: it is no valid one of these (RFC 4861 §6.1.1
/// and §6.1.2), as hosts pass over it too. That its hop limit is 255 and its checksum good, who calls
/// has seen to.
#[must_use]
pub fn read(from: Ipv6Addr, message: &[u8]) -> Option<Heard> {
    let [kind, code, ..] = *message else { return None };
    if code != 0 {
        return None;
    }
    match kind {
        ROUTER_SOLICITATION => {
            options(message.get(SOLICITATION_LEN..)?).map(|_| Heard::Solicitation)
        }
        ROUTER_ADVERTISEMENT if from.is_unicast_link_local() => {
            let options = options(message.get(HEADER_LEN..)?)?;
            let router_lifetime = u16::from_be_bytes([message[6], message[7]]);
            let prefixes = options.into_iter().filter_map(offered).collect();
            Some(Heard::Advertisement { router_lifetime, prefixes })
        }
        _ => None,
    }
}

/// The options of a message, each as a whole; none: one has no length, or is not all there.
fn options(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut options = Vec::new();
    while let [_, units, ..] = *rest {
        let (option, behind) = rest.split_at_checked(usize::from(units) * 8)?;
        if option.is_empty() {
            return None;
        }
        options.push(option);
        rest = behind;
    }
    rest.is_empty().then_some(options)
}

/// The prefix of an option that tells of one that hosts may make addresses of, and for how long they
/// are preferred.
fn offered(option: &[u8]) -> Option<(Ipv6Net, u32)> {
    let fields: &[u8; 32] = option.try_into().ok()?;
    let [kind, _, length, flags, _, _, _, _, a, b, c, d, ..] = *fields;
    let address: [u8; 16] = fields[16..].try_into().ok()?;
    let is_offer = kind == option::PREFIX_INFORMATION && flags & option::AUTONOMOUS != 0;
    let prefix = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
    is_offer.then(|| (prefix.trunc(), u32::from_be_bytes([a, b, c, d])))
}
