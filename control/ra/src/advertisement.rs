//! A router advertisement, as values and as bytes.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use weir_view::Preference;

use crate::prefixes::{PREFERRED_LIMIT_S, VALID_LIMIT_S};

/// ICMPv6 type (RFC 4861 §4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Length of the message without options, bytes.
pub(crate) const HEADER_LEN: usize = 16;

/// Types of options.
pub(crate) mod option {
    /// RFC 4861 §4.6.1.
    pub const SOURCE_LINK_ADDRESS: u8 = 1;
    /// RFC 4861 §4.6.2.
    pub const PREFIX_INFORMATION: u8 = 3;
    /// RFC 4861 §4.6.4.
    pub const MTU: u8 = 5;
    /// RFC 4191 §2.3.
    pub const ROUTE_INFORMATION: u8 = 24;
    /// RFC 8106 §5.1.
    pub const RECURSIVE_DNS_SERVERS: u8 = 25;
    /// RFC 8106 §5.2.
    pub const DNS_SEARCH_LIST: u8 = 31;

    /// Flag of prefix information: addresses are neighbours.
    pub const ON_LINK: u8 = 0x80;
    /// Flag of prefix information: hosts may make addresses.
    pub const AUTONOMOUS: u8 = 0x40;
}

/// What a router tells the hosts of a link (RFC 4861 §4.2). Lifetimes are in seconds; reachable
/// time and retransmission timer are left unspecified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Hop limit of what hosts send; 0: unspecified.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6 (the flag M).
    pub managed: bool,
    /// Other configuration is to be had by DHCPv6 (the flag O).
    pub other: bool,
    /// How long the sender is a default router; 0: it is none.
    pub router_lifetime: u16,
    /// Whether hosts are to take the sender before other default routers (RFC 4191 §2.2).
    pub preference: Preference,
    /// The sender's Ethernet address.
    pub link_address: Option<[u8; 6]>,
    /// MTU of the link.
    pub mtu: Option<u32>,
    /// Prefixes of the link.
    pub prefixes: Vec<PrefixInformation>,
    /// Prefixes that the sender leads to, whether it is a default router or not.
    pub routes: Vec<RouteInformation>,
    /// Recursive DNS servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains in which names are searched: labels of 1 to 63 bytes, 253 bytes in all.
    pub search: Vec<String>,
    /// Lifetime of `dns` and `search`.
    pub dns_lifetime: u32,
    /// Servers that are none any more.
    pub ended_dns: Vec<Ipv6Addr>,
    /// Domains in which names are searched no more.
    pub ended_search: Vec<String>,
}

/// A prefix of the link (RFC 4861 §4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixInformation {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// Its addresses are neighbours (the flag L).
    pub on_link: bool,
    /// Hosts may make addresses of it (the flag A).
    pub autonomous: bool,
    /// How long such addresses are valid, seconds.
    pub valid: u32,
    /// How long they are preferred: not more than valid.
    pub preferred: u32,
}

/// A prefix that a router leads to, with medium preference (RFC 4191 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInformation {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// For how long, seconds.
    pub lifetime: u32,
}

impl Advertisement {
    /// As ICMPv6 messages of at most `room` bytes each: as few as hold all options, for fragments
    /// of them would be ignored (RFC 6980). Their checksums are left to the kernel, as for all that
    /// raw sockets send (RFC 3542 §3.1).
    ///
    /// An option is not parted: one that is longer than `room` makes a message that is, too. In the
    /// 1240 bytes that every link has room for, each fits.
    #[must_use]
    pub fn encode(&self, room: usize) -> Vec<Vec<u8>> {
        let mut messages = vec![self.header()];
        for option in self.options() {
            match messages.last_mut() {
                Some(last) if last.len() + option.len() <= room => last.extend(option),
                _ => messages.push([self.header(), option].concat()),
            }
        }
        messages
    }

    /// Does a message say the same that has this router lifetime, and these prefixes for addresses,
    /// each with the seconds for which they are preferred? It may be one of several.
    #[must_use]
    pub fn says(&self, router_lifetime: u16, prefixes: &[(Ipv6Net, u32)]) -> bool {
        let has = |(prefix, preferred): &(Ipv6Net, u32)| {
            self.prefixes.iter().any(|it| (it.prefix, it.preferred) == (*prefix, *preferred))
        };
        self.router_lifetime == router_lifetime && prefixes.iter().all(has)
    }

    /// Is this what `before` has come to after so many seconds, by the count of them alone? What is
    /// at its limit is not counted, so that the end of that is another message, as is an end.
    #[must_use]
    pub fn continues(&self, before: &Self, seconds: u64) -> bool {
        let without = |of: &Self| Self { prefixes: Vec::new(), ..of.clone() };
        let goes_on = |(now, before): (&PrefixInformation, &PrefixInformation)| {
            let counted = |now: u32, before: u32, limit: u32| {
                let end = u64::from(now) + seconds;
                // Each was rounded down.
                let on_time = (end..=end + 1).contains(&before.into());
                now == before || (now > 0 && before < limit && on_time)
            };
            counted(now.valid, before.valid, VALID_LIMIT_S)
                && counted(now.preferred, before.preferred, PREFERRED_LIMIT_S)
                && PrefixInformation { valid: 0, preferred: 0, ..*now }
                    == PrefixInformation { valid: 0, preferred: 0, ..*before }
        };
        without(self) == without(before)
            && self.prefixes.len() == before.prefixes.len()
            && self.prefixes.iter().zip(&before.prefixes).all(goes_on)
    }

    /// What every message begins with: the fixed part, and who sends it.
    fn header(&self) -> Vec<u8> {
        let flags = u8::from(self.managed) << 7
            | u8::from(self.other) << 6
            | preference(self.preference) << 3;
        let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, self.hop_limit, flags];
        message.extend(self.router_lifetime.to_be_bytes());
        message.resize(HEADER_LEN, 0);
        if let Some(address) = self.link_address {
            message.extend(option(option::SOURCE_LINK_ADDRESS, &address));
        }
        message
    }

    fn options(&self) -> impl Iterator<Item = Vec<u8>> {
        let mtu = self.mtu.map(|mtu| option(option::MTU, &behind_reserved(mtu)));
        let prefixes = self.prefixes.iter().map(PrefixInformation::option);
        let routes = self.routes.iter().map(RouteInformation::option);
        let dns = servers(&self.dns, self.dns_lifetime);
        // One option for each, so that however many there are, each fits.
        let search = self.search.iter().map(|name| domain(name, self.dns_lifetime));
        let ended = servers(&self.ended_dns, 0).into_iter();
        let ended = ended.chain(self.ended_search.iter().map(|name| domain(name, 0)));
        mtu.into_iter().chain(prefixes).chain(routes).chain(dns).chain(search).chain(ended)
    }
}

impl PrefixInformation {
    fn option(&self) -> Vec<u8> {
        let flag = |is: bool, flag| if is { flag } else { 0 };
        let flags = flag(self.on_link, option::ON_LINK) | flag(self.autonomous, option::AUTONOMOUS);
        let mut body = vec![self.prefix.prefix_len(), flags];
        body.extend(self.valid.to_be_bytes());
        body.extend(self.preferred.to_be_bytes());
        body.extend([0; 4]);
        body.extend(self.prefix.network().octets());
        option(option::PREFIX_INFORMATION, &body)
    }
}

impl RouteInformation {
    fn option(&self) -> Vec<u8> {
        let mut body = vec![self.prefix.prefix_len(), 0];
        body.extend(self.lifetime.to_be_bytes());
        let octets = self.prefix.network().octets();
        body.extend(&octets[..usize::from(self.prefix.prefix_len().div_ceil(64)) * 8]);
        option(option::ROUTE_INFORMATION, &body)
    }
}

/// Two bits, as a signed number (RFC 4191 §2.1).
const fn preference(preference: Preference) -> u8 {
    match preference {
        Preference::High => 0b01,
        Preference::Medium => 0b00,
        Preference::Low => 0b11,
    }
}

/// The option of these servers, if there are any.
fn servers(dns: &[Ipv6Addr], lifetime: u32) -> Option<Vec<u8>> {
    let body = behind_reserved(lifetime).into_iter().chain(dns.iter().flat_map(Ipv6Addr::octets));
    (!dns.is_empty()).then(|| option(option::RECURSIVE_DNS_SERVERS, &body.collect::<Vec<_>>()))
}

/// The option of a domain.
fn domain(name: &str, lifetime: u32) -> Vec<u8> {
    let labels = name.split('.').flat_map(label);
    let body = behind_reserved(lifetime).into_iter().chain(labels).chain([0]);
    option(option::DNS_SEARCH_LIST, &body.collect::<Vec<_>>())
}

/// An option: type, length in units of eight bytes, and its body filled up with zeros.
fn option(kind: u8, body: &[u8]) -> Vec<u8> {
    let units = (2 + body.len()).div_ceil(8);
    let mut bytes = vec![kind, units as u8];
    bytes.extend(body);
    bytes.resize(units * 8, 0);
    bytes
}

/// A number behind two reserved bytes, as some options begin.
fn behind_reserved(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0, 0, a, b, c, d]
}

/// A label of a domain name (RFC 1035 §3.1).
fn label(label: &str) -> impl Iterator<Item = u8> {
    std::iter::once(label.len() as u8).chain(label.bytes())
}
