//! `[[publish]]`: services that uplinks are open for.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;
use weir_layout::Family;
use weir_layout::control::{MAX_PUBLISHED, MAX_PUBLISHED_ALLOWED, Translate};
use weir_layout::prefix_sets::MAX_SETS;
use weir_layout::protocol::{self, TCP, UDP};

use super::checker::Checker;
use super::schema::{Among, File, Ports, Protocol, Protocols, Publish, Texts};
use super::sets::Known;
use super::{UplinkConfig, service_ports};

/// A service that uplinks are open for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishConfig {
    /// Name.
    pub name: String,
    /// IP protocols: TCP and UDP, or such as have no ports.
    pub protocols: Vec<u8>,
    /// Ports outside, first and last; of protocols without ports 0.
    pub ports: (u16, u16),
    /// Whom they lead to: the gateway, or a host of one or each family.
    pub to: Vec<To>,
    /// Indices of the uplinks.
    pub uplinks: Vec<u8>,
    /// Whom it is open to; neither these nor a set: everybody.
    pub from: Vec<IpNet>,
    /// Bit *n* set: to those too that set *n* holds.
    pub allowed_sets: u64,
    /// Bit *n* set: to none that set *n* holds.
    pub barred_sets: u64,
    /// Where in the file.
    pub line: usize,
}

/// Whom a service is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The gateway.
    Gateway,
    /// A host of a LAN: its address, and the port that the first of those outside leads to.
    Host(SocketAddr),
}

/// One of the services that an entry of the file is about: of one family and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Family.
    pub family: Family,
    /// IP protocol.
    pub protocol: u8,
    /// The host and its first port; none: the gateway's.
    pub host: Option<SocketAddr>,
}

impl PublishConfig {
    /// Its services, in these families.
    pub fn services(&self, families: &[Family]) -> Vec<Service> {
        let mut services = Vec::new();
        for protocol in self.protocols.iter().copied() {
            for to in &self.to {
                let host = match to {
                    To::Gateway => None,
                    To::Host(host) => Some(*host),
                };
                let is_of = |family: &&Family| host.is_none_or(|host| family_of(&host) == **family);
                let of = |family: &Family| Service { family: *family, protocol, host };
                services.extend(families.iter().filter(is_of).map(of));
            }
        }
        services
    }

    /// Is it of protocols without ports?
    pub fn is_portless(&self) -> bool {
        self.protocols.iter().any(|of| protocol::is_portless(*of))
    }

    /// Its hosts.
    pub fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        self.to.iter().filter_map(|to| match to {
            To::Gateway => None,
            To::Host(host) => Some(host.ip()),
        })
    }

    /// The prefixes of those that its services of a family are open to.
    pub fn allowed(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.from.iter().filter(move |net| Family::of(net.addr()) == family)
    }

    /// Is it open to some, and to none of a family? Without anybody named it is open to all.
    pub fn is_of_nobody(&self, family: Family) -> bool {
        let names_none = self.from.is_empty() || self.allowed(family).next().is_some();
        !names_none && self.allowed_sets == 0
    }
}

impl Publish {
    /// Where in the file it says what is asked for.
    fn place(&self) -> Range<usize> {
        self.ports.as_ref().map_or_else(|| self.protocol.span(), Spanned::span)
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Host(host) if host.port() == 0 => host.ip().fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

fn family_of(host: &SocketAddr) -> Family {
    Family::of(host.ip())
}

/// The published services; `known` are the indices of the uplinks' names.
pub fn publish(
    c: &mut Checker<'_>,
    file: &File,
    uplinks: &[UplinkConfig],
    known: &HashMap<String, usize>,
    sets: &Known,
    (nat_ports, workers): ((u16, u16), u8),
) -> Vec<PublishConfig> {
    c.unique("publish", file.publish.iter().map(|publish| &publish.get_ref().name));
    let mut all: Vec<PublishConfig> = Vec::new();
    for given in &file.publish {
        let Some(publish) = one(c, given, uplinks, known, sets) else { continue };
        if let Some((other, uplink)) = clash(&publish, &all, uplinks) {
            let (what, remedy) = match publish.is_portless() {
                true => ("a protocol", "give one of them other uplinks: nothing tells them apart"),
                false => ("ports", "give them other ports, or other uplinks"),
            };
            let message = format!(
                "publish \"{}\" has {what} of publish \"{other}\" by uplink {uplink}",
                publish.name
            );
            c.refuse(given.get_ref().place(), message, remedy);
        }
        all.push(publish);
    }
    let families: Vec<_> = Family::ALL
        .into_iter()
        .filter(|family| uplinks.iter().any(|uplink| uplink.has_path(*family)))
        .collect();
    let services: usize = all.iter().map(|publish| publish.services(&families).len()).sum();
    c.too_many("published services (by protocol and family)", services, MAX_PUBLISHED);
    let allowed = |publish: &PublishConfig| publish.protocols.len() * publish.from.len();
    let allowed = all.iter().map(allowed).sum();
    c.too_many("prefixes in `from` (by protocol)", allowed, MAX_PUBLISHED_ALLOWED);
    service_ports::leave_some(c, &all, uplinks, nat_ports, workers);
    all
}

fn one(
    c: &mut Checker<'_>,
    given: &Spanned<Publish>,
    uplinks: &[UplinkConfig],
    known: &HashMap<String, usize>,
    sets: &Known,
) -> Option<PublishConfig> {
    let p = given.get_ref();
    c.name("publish", &p.name);
    let protocols = protocols(c, &p.protocol);
    let ports = ports(c, p, &protocols);
    let named = p.uplinks.is_some();
    let by: Vec<u8> = match &p.uplinks {
        Some(names) => names.iter().map(|name| c.find("uplink", name, known) as u8).collect(),
        None => (0..uplinks.len() as u8).collect(),
    };
    if named && by.is_empty() {
        c.refuse(given.span(), "no uplink is named", "name some, or remove `uplinks` for all");
    }
    if p.from.as_ref().is_some_and(Vec::is_empty) {
        c.refuse(given.span(), "`from` names nobody", "name some, or remove it for everybody");
    }
    let (mut from, mut allowed_sets, mut barred_sets) = (Vec::new(), 0, 0);
    for whom in p.from.iter().flatten() {
        match whom.get_ref() {
            Among::Prefix(net) => from.push(c.prefix(&Spanned::new(whom.span(), *net))),
            Among::Set { name, negated } => {
                let sets = 1 << (sets.number(c, name, whom) % MAX_SETS);
                *(if *negated { &mut barred_sets } else { &mut allowed_sets }) |= sets;
            }
        }
    }
    let (lo, hi) = ports?;
    let to = to(c, &p.to, (lo, hi));
    let publish = PublishConfig {
        name: p.name.get_ref().clone(),
        protocols,
        ports: (lo, hi),
        to,
        uplinks: by,
        from,
        allowed_sets,
        barred_sets,
        line: c.places.line(given.span().start),
    };
    fits(c, given, &publish, uplinks, sets);
    Some(publish)
}

/// Refuses hosts of a family that no uplink of the service has, or nobody may send in.
fn fits(
    c: &mut Checker<'_>,
    given: &Spanned<Publish>,
    publish: &PublishConfig,
    uplinks: &[UplinkConfig],
    sets: &Known,
) {
    let (to, span) = (given.get_ref().to.span(), given.span());
    if let Some(port) = service_ports::of_leases(publish) {
        c.refuse(
            given.get_ref().place(),
            format!("to UDP port {port} the gateway's own leases come"),
            "publish other ports",
        );
    }
    if publish.to.contains(&To::Gateway) && given.get_ref().from.is_some() {
        c.refuse(
            span.clone(),
            "`from` is for services of hosts",
            "who may reach the gateway's own says a filter in the hook `input`",
        );
    }
    if publish.is_portless() {
        fits_without_ports(c, given.get_ref(), publish, uplinks);
    }
    for host in publish.hosts() {
        let family = Family::of(host);
        let of = |uplink: &u8| uplinks.get(usize::from(*uplink));
        if !publish.uplinks.iter().filter_map(of).any(|uplink| uplink.has_path(family)) {
            let message = format!("no uplink that is open for {host} has a path of its family");
            c.refuse(to.clone(), message, "give an uplink `ipv6`, or remove the address");
        }
        let inbound: Vec<&str> = publish
            .uplinks
            .iter()
            .filter_map(of)
            .filter(|uplink| uplink.is_inbound(family))
            .map(|uplink| uplink.name.as_str())
            .collect();
        if !inbound.is_empty() {
            let (name, by) = (&publish.name, inbound.join(", "));
            c.warnings.push(format!(
                "publish \"{name}\": {by} lets in all that is for LANs (`inbound`): {host} is \
                 reached there on its own ports, by everybody"
            ));
        }
        let has_none = publish.allowed(family).next().is_none();
        let mut of_sets = (0..MAX_SETS).filter(|number| publish.allowed_sets >> number & 1 != 0);
        if publish.is_of_nobody(family) {
            let message = format!("`from` has no prefix of the family of {host}");
            c.refuse(span.clone(), message, "add one, or remove the address");
        } else if publish.allowed_sets != 0 && has_none && !of_sets.any(|it| sets.has(it, family)) {
            let name = &publish.name;
            c.warnings.push(format!(
                "publish \"{name}\": nobody reaches {host}: the sets of `from` have no prefix of \
                 its family"
            ));
        }
    }
}

/// Refuses what a protocol without ports cannot do: be kept for the gateway, which has what nobody
/// asked for anyway, or be right with another address than it was sent to.
fn fits_without_ports(
    c: &mut Checker<'_>,
    given: &Publish,
    publish: &PublishConfig,
    uplinks: &[UplinkConfig],
) {
    if publish.to.contains(&To::Gateway) {
        c.refuse(
            given.to.span(),
            "a protocol without ports is not kept for the gateway",
            "name a host; what comes for the gateway itself is the kernel's in any case",
        );
    }
    for host in publish.hosts() {
        let family = Family::of(host);
        let of = |uplink: &u8| uplinks.get(usize::from(*uplink));
        for (uplink, number) in publish
            .uplinks
            .iter()
            .filter_map(of)
            .flat_map(|uplink| publish.protocols.iter().map(move |number| (uplink, *number)))
        {
            let is_right = uplink.translation(family).keeps_right(number);
            if uplink.has_path(family) && !is_right {
                c.refuse(
                    given.protocol.span(),
                    format!(
                        "protocol {} is only right with its own addresses, which uplink {} changes",
                        name(number),
                        uplink.name
                    ),
                    "name `uplinks` that do not translate",
                );
            }
        }
    }
}

fn name(number: u8) -> String {
    protocol::name(number).map_or_else(|| number.to_string(), |name| format!("\"{name}\""))
}

fn protocols(c: &mut Checker<'_>, given: &Spanned<Protocols>) -> Vec<u8> {
    const REMEDY: &str = "use \"tcp\", \"udp\" or both, or, without ports, \"gre\", \"esp\", \"ah\", \
                          \"sctp\", \"ipip\", \"6in4\" or a number without quotes, such as 115";
    let mut protocols = Vec::new();
    for one in given.get_ref().iter() {
        let (number, text) = match one {
            Protocol::Number(number) => (Some(*number), number.to_string()),
            Protocol::Name(name) => (protocol::number(name), format!("\"{name}\"")),
        };
        match number {
            Some(TCP | UDP) => protocols.extend(number),
            Some(of) if protocol::is_portless(of) && protocol::is_forwarded(of) => {
                protocols.push(of);
            }
            _ => c.refuse(given.span(), format!("protocol {text} cannot be published"), REMEDY),
        }
    }
    protocols.sort_unstable();
    protocols.dedup();
    if given.get_ref().iter().next().is_none() {
        c.refuse(given.span(), "no protocol is given", REMEDY);
    }
    protocols
}

/// The ports of a service: of TCP and UDP some are given, of protocols without ports none are.
fn ports(c: &mut Checker<'_>, p: &Publish, protocols: &[u8]) -> Option<(u16, u16)> {
    let without = protocols.iter().find(|of| protocol::is_portless(**of));
    let with = protocols.iter().find(|of| !protocol::is_portless(**of));
    let refused = match (with, without, &p.ports) {
        (Some(with), Some(without), _) => Some((
            p.protocol.span(),
            format!("protocol {} has ports, and {} has none", name(*with), name(*without)),
            "make two entries of it",
        )),
        (None, Some(without), Some(ports)) => {
            Some((ports.span(), format!("protocol {} has no ports", name(*without)), "remove them"))
        }
        (Some(with), None, None) => Some((
            p.protocol.span(),
            format!("no `ports` are given, which protocol {} has", name(*with)),
            "say which, such as `ports = 443` or `ports = \"8000-8010\"`",
        )),
        _ => None,
    };
    if let Some((span, message, remedy)) = refused {
        c.refuse(span, message, remedy);
        return None;
    }
    let Some(given) = &p.ports else { return without.map(|_| (0, 0)) };
    let range = match given.get_ref() {
        Ports::One(port) => Some((*port, *port)),
        Ports::Range(text) => c.range(&Spanned::new(given.span(), text.clone())),
    }?;
    if range.0 == 0 {
        c.refuse(given.span(), "port 0 is nobody's", "use 1 to 65535");
        return None;
    }
    Some(range)
}

fn to(c: &mut Checker<'_>, given: &Spanned<Texts>, ports: (u16, u16)) -> Vec<To> {
    let mut to: Vec<To> = Vec::new();
    for text in given.get_ref().iter() {
        let Some(one) = whom(c, given.span(), text, ports) else { continue };
        let same = |other: &To| match (other, &one) {
            (To::Host(a), To::Host(b)) => family_of(a) == family_of(b),
            _ => true,
        };
        if let Some(other) = to.iter().find(|other| same(other)) {
            c.refuse(
                given.span(),
                format!("{text} and {other} cannot both have it"),
                "name the gateway alone, or one host of each family",
            );
        }
        to.push(one);
    }
    if given.get_ref().iter().next().is_none() {
        c.refuse(given.span(), "nobody is named", "give an address, or \"gateway\"");
    }
    to
}

/// Who is meant by a text, if somebody can be.
fn whom(c: &mut Checker<'_>, span: Range<usize>, text: &str, (lo, hi): (u16, u16)) -> Option<To> {
    if text == "gateway" {
        return Some(To::Gateway);
    }
    let host = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, lo)));
    let Ok(host) = host else {
        c.refuse(
            span,
            format!("\"{text}\" is no address"),
            "write \"10.0.0.5\", \"10.0.0.5:80\", \"[2001:db8::5]:443\" or \"gateway\"",
        );
        return None;
    };
    let is_hosts = match host.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some())
        }
    };
    if !is_hosts {
        c.refuse(span, format!("{} is no host's address", host.ip()), "give one of a LAN's");
        return None;
    }
    if (lo, hi) == (0, 0) {
        if host.port() != 0 {
            c.refuse(span, format!("{text} names a port"), "give the host's address alone");
            return None;
        }
        return Some(To::Host(host));
    }
    if host.port() == 0 || u32::from(host.port()) + u32::from(hi - lo) > 65_535 {
        c.refuse(
            span,
            format!("from port {} on there are no {} ports", host.port(), hi - lo + 1),
            "the ports inside are as many as outside, from the one that is given",
        );
        return None;
    }
    Some(To::Host(host))
}

/// The name of another publish that has the same port of the same addresses, and of an uplink by
/// which it has. Hosts that keep their addresses outside may have the same port.
fn clash(
    publish: &PublishConfig,
    others: &[PublishConfig],
    uplinks: &[UplinkConfig],
) -> Option<(String, String)> {
    for other in others {
        let apart = publish.ports.1 < other.ports.0 || other.ports.1 < publish.ports.0;
        if apart || !publish.protocols.iter().any(|of| other.protocols.contains(of)) {
            continue;
        }
        let both = publish.uplinks.iter().filter(|uplink| other.uplinks.contains(uplink));
        for uplink in both.filter_map(|uplink| uplinks.get(usize::from(*uplink))) {
            let families = Family::ALL.into_iter().filter(|family| uplink.has_path(*family));
            for family in families {
                let of = |publish: &PublishConfig| publish.services(&[family]);
                let shared = uplink.translation(family) == Translate::Napt;
                let meet = |a: &Service, b: &Service| {
                    let ip = |service: &Service| service.host.map(|host| host.ip());
                    a.protocol == b.protocol && (shared || ip(a) == ip(b))
                };
                if of(publish).iter().any(|a| of(other).iter().any(|b| meet(a, b))) {
                    return Some((other.name.clone(), uplink.name.clone()));
                }
            }
        }
    }
    None
}
