//! From the file to what a LAN's hosts are told by router advertisements.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use toml::Spanned;
use weir_layout::Family;
use weir_view::{Kernel, Net as _, Preference};

use super::checker::Checker;
use super::{Lan, schema};

/// Most DNS servers, and most domains to search: hosts keep fewer (RFC 8106 §5.3.1).
const MOST: usize = 8;
/// Longest router lifetime, seconds (RFC 4861 §6.2.1).
const MOST_LIFETIME: u64 = 9000;
/// Shortest one: the longest time between two advertisements (RFC 4861 §6.2.1).
const LEAST_LIFETIME: u64 = 600;
/// Least MTU of a link (RFC 8200 §5).
const LEAST_MTU: i64 = 1280;

/// What a LAN's hosts are told by router advertisements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaConfig {
    /// Another program sends them, and is told what they are to say.
    pub by_others: bool,
    /// Prefixes that they are offered; none: see [`Lan::offered`].
    pub prefixes: Vec<Ipv6Net>,
    /// Recursive DNS servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains in which names are searched.
    pub search: Vec<String>,
    /// Prefixes that the gateway leads to even where it is no default router, beside those of the
    /// other LANs.
    pub routes: Vec<Ipv6Net>,
    /// MTU of the link, if it is another than its usual one.
    pub mtu: Option<u32>,
    /// How long the gateway is a default router from each advertisement on, seconds; 0: it is none.
    pub router_lifetime: u16,
    /// Whether hosts are to take it before other default routers.
    pub preference: Preference,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Hosts make addresses of the prefixes.
    pub autonomous: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
}

impl RaConfig {
    /// `ND_PREFERRED_LIMIT` (RFC 9096 §3.4).
    pub const ROUTER_LIFETIME: u16 = 2700;
}

impl Lan {
    /// The prefixes that its hosts are offered, and the networks that they can make no addresses of,
    /// for which 64 bits are needed (RFC 4862 §5.5.3 d). What the file says, else the LAN's networks
    /// of 64 bits, and of wider ones the parts that the gateway itself has addresses of.
    pub fn offered(&self, kernel: &Kernel) -> (Vec<Ipv6Net>, Vec<Ipv6Net>) {
        let Some(ra) = &self.ra else { return Default::default() };
        if !ra.prefixes.is_empty() {
            return (ra.prefixes.clone(), Vec::new());
        }
        let networks = self.networks(Family::V6, kernel).into_iter().filter_map(Ipv6Net::of);
        let (mut offered, mut useless) = (Vec::new(), Vec::new());
        for network in networks {
            let parts = match network.prefix_len() {
                64 => vec![network],
                _ => self.parts(&network, kernel),
            };
            if parts.is_empty() {
                useless.push(network);
            }
            offered.extend(parts);
        }
        offered.sort_unstable();
        offered.dedup();
        (offered, useless)
    }

    /// Those of these prefixes that the kernel has not on the link: the gateway was given no
    /// address of them there, or has lost it, as when the interface was down. What is for their
    /// hosts it cannot pass on.
    pub fn unconnected(&self, prefixes: &[Ipv6Net], kernel: &Kernel) -> Vec<Ipv6Net> {
        let Some(link) = kernel.link(&self.interface) else { return Vec::new() };
        let networks = kernel.networks(Family::V6, link.index).into_iter().filter_map(Ipv6Net::of);
        let networks: Vec<_> = networks.collect();
        let is_own = |prefix: &Ipv6Net| networks.iter().any(|net| net.contains(prefix));
        // Perhaps a million routes, which few prefixes are looked for in.
        let is_routed = |prefix: &Ipv6Net| {
            kernel.routes6.iter().any(|route| {
                route.interface == link.index
                    && route.is_on_link()
                    && route.destination.prefix_len() > 0
                    && route.destination.contains(prefix)
            })
        };
        let lost = prefixes.iter().filter(|prefix| !is_own(prefix) && !is_routed(prefix));
        lost.copied().collect()
    }

    /// The parts of 64 bits of a network in which the gateway was given an address on the interface,
    /// and all of which the kernel has on the link.
    fn parts(&self, network: &Ipv6Net, kernel: &Kernel) -> Vec<Ipv6Net> {
        let index = kernel.link(&self.interface).map(|link| link.index);
        let own = kernel.addresses.iter().filter(|(at, own)| {
            Some(*at) == index && !kernel.advertised.contains(&(*at, own.addr()))
        });
        let part = |(_, own): &(u32, IpNet)| match own {
            IpNet::V6(own) if own.prefix_len() <= 64 => Ipv6Net::new(own.addr(), 64).ok(),
            _ => None,
        };
        own.filter_map(part)
            .map(|part| part.trunc())
            .filter(|part| network.contains(part))
            .collect()
    }
}

/// Checks what the file says of a LAN's advertisements; `lan` are the LAN's prefixes in the file.
pub fn advertisements(c: &mut Checker<'_>, given: &Spanned<schema::Ra>, lan: &[IpNet]) -> RaConfig {
    let of = given.get_ref();
    refuse_foreign(c, &of.prefixes, lan);
    for (what, count) in [("dns", of.dns.len()), ("search", of.search.len())] {
        if count > MOST {
            let message = format!("{count} entries of {what}, at most {MOST} are possible");
            c.refuse(given.span(), message, "remove some");
        }
    }
    for server in of.dns.iter().filter(|server| !super::ipv6::is_host(*server.get_ref())) {
        let message = format!("DNS server {} is no host", server.get_ref());
        c.refuse(server.span(), message, "give the address of a resolver that the LAN reaches");
    }
    for domain in of.search.iter().filter(|domain| !is_domain(domain.get_ref())) {
        let message = format!("\"{}\" is no domain", domain.get_ref());
        c.refuse(domain.span(), message, "write one such as \"example.net\", without a final dot");
    }
    let longest = u64::from(RaConfig::ROUTER_LIFETIME);
    let lifetime = c.seconds("router_lifetime", &of.router_lifetime, MOST_LIFETIME, longest);
    if let Some(given) = &of.router_lifetime
        && lifetime < LEAST_LIFETIME
    {
        c.refuse(
            given.span(),
            format!("router_lifetime \"{}\" is shorter than the time to the next", given.get_ref()),
            format!("use {LEAST_LIFETIME}s or more, or say default_router = false"),
        );
    }
    let mtu = of.mtu.is_some();
    RaConfig {
        by_others: of.sender == schema::Sender::Others,
        prefixes: of.prefixes.iter().filter_map(|given| prefix(c, given, Some(64))).collect(),
        dns: of.dns.iter().map(|server| *server.get_ref()).collect(),
        search: of.search.iter().map(|domain| domain.get_ref().clone()).collect(),
        routes: of.routes.iter().filter_map(|given| prefix(c, given, None)).collect(),
        mtu: mtu.then(|| c.number("mtu", &of.mtu, LEAST_MTU..65_536, LEAST_MTU) as u32),
        router_lifetime: if of.default_router { lifetime as u16 } else { 0 },
        preference: of.preference,
        managed: of.managed,
        autonomous: of.autonomous,
        other: of.other,
    }
}

/// Refuses prefixes that hosts would be told and that are not the LAN's: what is sent from them is
/// dropped.
fn refuse_foreign(c: &mut Checker<'_>, told: &[Spanned<IpNet>], lan: &[IpNet]) {
    let own: Vec<_> = lan.iter().copied().filter_map(Ipv6Net::of).collect();
    for given in told {
        let IpNet::V6(net) = given.get_ref() else { continue };
        if !own.is_empty() && !own.iter().any(|own| own.contains(net)) {
            let message = format!("hosts would be told {net}, which is none of the LAN's prefixes");
            c.refuse(
                given.span(),
                message,
                "add it to the LAN's `prefixes`, or give a /64 of those",
            );
        }
    }
}

/// The prefix, if it is of IPv6 and has this length, where there must be one.
fn prefix(c: &mut Checker<'_>, given: &Spanned<IpNet>, length: Option<u8>) -> Option<Ipv6Net> {
    match c.prefix(given) {
        IpNet::V4(net) => {
            c.refuse(given.span(), format!("{net} is not of IPv6"), "leave it out");
            None
        }
        IpNet::V6(net) if length.is_none_or(|length| net.prefix_len() == length) => Some(net),
        IpNet::V6(net) => {
            c.refuse(
                given.span(),
                format!("hosts make no addresses of {net}"),
                "give a /64 of it (RFC 4862 §5.5.3)",
            );
            None
        }
    }
}

/// Labels of letters, digits, `-` and `_`, 1 to 63 each and 253 in all (RFC 1035 §2.3.4).
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..64).contains(&label.len()) && label.bytes().all(good)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::Preference;

    fn site(ra: &str) -> Result<crate::Site, Vec<String>> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\nra = {{ {ra} }}\n[[uplink]]\nname = \"a\"\n\
             interface = \"wan0\"\nipv6 = {{ translate = \"none\" }}\n"
        );
        let told = |problems: Vec<crate::Problem>| problems.iter().map(|p| p.to_string()).collect();
        crate::parse("weir.toml", &text).map_err(told)
    }

    #[test]
    fn prefixes_that_hosts_are_told_are_the_lans_where_the_file_gives_those() {
        let told = |lan: &str, prefix: &str| {
            let text = format!(
                "[[lan]]\ninterface = \"lan0\"\nprefixes = [{lan}]\nra = {{ prefixes = \
                 [\"{prefix}\"] }}\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n\
                 ipv6 = {{ translate = \"none\" }}\n"
            );
            let problems = crate::parse("weir.toml", &text).err().unwrap_or_default();
            problems.iter().map(|p| p.to_string()).collect::<Vec<_>>()
        };
        let own = "\"10.0.0.0/24\", \"2001:2:0:10::/60\"";
        let foreign = told(own, "2001:2:0:20::/64");
        let words = "told 2001:2:0:20::/64, which is none of the LAN's prefixes";
        assert!(foreign.len() == 1 && foreign[0].contains(words), "{foreign:?}");
        assert!(foreign[0].contains("weir.toml:4:"), "{foreign:?}");
        assert_eq!(told(own, "2001:2:0:15::/64"), [""; 0]);
        assert_eq!(told("\"10.0.0.0/24\"", "2001:2:0:20::/64"), [""; 0], "those of the interface");
    }

    /// What a LAN is offered, and what it has in vain, whose interface has these addresses.
    fn offered(lan: &str, addresses: &[&str]) -> (Vec<String>, Vec<String>) {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n{lan}\nra = {{}}\n[[uplink]]\nname = \"a\"\n\
             interface = \"wan0\"\nipv6 = {{ translate = \"none\" }}\n"
        );
        let link = weir_view::Link { index: 7, name: "lan0".into(), ..Default::default() };
        let kernel = weir_view::Kernel {
            links: vec![link],
            addresses: addresses.iter().map(|net| (7, net.parse().unwrap())).collect(),
            ..Default::default()
        };
        let (offered, useless) = crate::parse("weir.toml", &text).unwrap().lans[0].offered(&kernel);
        let texts = |nets: Vec<ipnet::Ipv6Net>| nets.iter().map(ToString::to_string).collect();
        (texts(offered), texts(useless))
    }

    #[test]
    fn of_a_wider_network_hosts_are_offered_the_gateways_own_part() {
        let of_interface = ["2001:2:0:10::1/60", "2001:2:0:15::1/60", "2001:2:0:20::1/64"];
        let parts = ["2001:2:0:10::/64", "2001:2:0:15::/64", "2001:2:0:20::/64"].map(Into::into);
        assert_eq!(offered("", &of_interface), (parts.to_vec(), vec![]));
        let given = "prefixes = [\"2001:2:0:10::/60\"]";
        assert_eq!(offered(given, &of_interface), (parts[..2].to_vec(), vec![]));
        let told = offered(given, &["2001:2:0:20::1/64", "2001:2:0:10::1/128"]);
        assert_eq!(told, (vec![], vec!["2001:2:0:10::/60".into()]), "no host is a neighbour there");
        let told = offered("", &["2001:2:0:10::1/80", "2001:2:0:10::2/64"]);
        let (whole, narrow) = ("2001:2:0:10::/64", "2001:2:0:10::/80");
        assert_eq!(told, (vec![whole.into()], vec![narrow.into()]));
    }

    #[test]
    fn an_empty_table_turns_them_on() {
        let ra = site("").unwrap().lans.remove(0).ra.unwrap();
        assert_eq!((ra.router_lifetime, ra.prefixes.len(), ra.mtu), (2700, 0, None));
        assert_eq!(ra.preference, Preference::Medium);
        assert!(ra.autonomous);
    }

    #[test]
    fn another_program_sends_them_by_a_word_or_beside_all_other_keys() {
        let by_others = |text: &str| {
            let ra = site(text).unwrap().lans.remove(0).ra.unwrap();
            (ra.by_others, ra.router_lifetime, ra.managed)
        };
        assert_eq!(by_others("sender = \"others\", managed = true"), (true, 2700, true));
        assert_eq!(by_others("sender = \"weir\""), (false, 2700, false));
        let word = |word: &str| {
            let text = format!(
                "[[lan]]\ninterface = \"lan0\"\nra = {word}\n[[uplink]]\nname = \"a\"\n\
                 interface = \"wan0\"\nipv6 = {{ translate = \"none\" }}\n"
            );
            let told = |all: Vec<crate::Problem>| all.iter().map(|p| p.to_string()).collect();
            crate::parse("weir.toml", &text).map_err(|all| -> Vec<String> { told(all) })
        };
        let others = word("\"others\"").unwrap();
        let ra = others.lans[0].ra.as_ref().unwrap();
        assert!(ra.by_others && ra.router_lifetime == 2700, "{ra:?}");
        for (wrong, words) in [
            ("\"foo\"", &["string \"foo\"", "expected \"others\", or a table"][..]),
            ("true", &["expected \"others\", or a table"]),
            ("{ sender = \"foo\" }", &["`foo`", "`weir`", "`others`"]),
            ("{ sender = \"others\", dsn = [] }", &["unknown field `dsn`", "`dns`"]),
        ] {
            let told = word(wrong).unwrap_err();
            assert!(told.len() == 1 && words.iter().all(|it| told[0].contains(it)), "{told:?}");
            assert!(told[0].contains("weir.toml:3:"), "{told:?}");
        }
    }

    #[test]
    fn another_program_that_nobody_tells_is_warned_of() {
        let warned = |more: &str, ra: &str| {
            let text = format!(
                "{more}[[lan]]\ninterface = \"lan0\"\nra = {ra}\n[[uplink]]\nname = \"a\"\n\
                 interface = \"wan0\"\nipv6 = {{ translate = \"none\" }}\n"
            );
            let warnings = crate::parse("weir.toml", &text).unwrap().warnings;
            warnings.iter().any(|told| told.starts_with("lan lan0: no hook"))
        };
        let hooks = "[gateway]\nhooks = \"/etc/weir/hooks.d\"\n";
        assert!(warned("", "\"others\"") && warned("", "{ sender = \"others\" }"));
        assert!(!warned(hooks, "\"others\"") && !warned("", "{}"));
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        for (wrong, word) in [
            ("dns = [\"ff02::1\"]", "is no host"),
            ("search = [\"a..b\"]", "is no domain"),
            ("search = [\"example.net.\"]", "is no domain"),
            ("mtu = 1000", "out of range"),
            ("router_lifetime = \"5m\"", "shorter than"),
            ("router_lifetime = \"3h\"", "too long"),
            ("prefixes = [\"2001:2::/56\"]", "no addresses of"),
            ("prefixes = [\"10.0.0.0/24\"]", "not of IPv6"),
            ("routes = [\"2001:2::1/56\"]", "bits set"),
            ("preference = \"best\"", "expected one of `low`, `medium`, `high`"),
        ] {
            let told = site(wrong).unwrap_err();
            assert!(told.len() == 1 && told[0].contains(word), "{wrong}: {told:?}");
        }
        let all = "default_router = false, mtu = 1480, routes = [\"2001:2::/56\"], \
                   dns = [\"fe80::1\"], search = [\"example.net\", \"lan\"]";
        assert_eq!(site(all).unwrap().lans[0].ra.as_ref().unwrap().router_lifetime, 0);
    }
}
