//! Whether packets of a family need flows, and which packets from LANs may leave without.
//!
//! A flow keeps what cannot be said of a packet by itself: which address stands for its source,
//! whether it was asked for, which policy steers it, and which uplink it took before another became
//! the better one. Where none of that matters, every packet is forwarded by what it says. It is so
//! of a family as a whole, or not at all.

use std::cmp::Reverse;

use ipnet::{IpNet, Ipv6Net};
use weir_layout::control::{
    Address, ControlHalf, IpAddress, MAX_ORIGINS, Member, Origin, PathId, Selection, Stateless,
    Translate, UNROUTED, host_class,
};
use weir_layout::{Family, NONE};
use weir_site::load::Balance;
use weir_site::{PolicyConfig, Site, UplinkConfig};
use weir_view::Kernel;
use weir_view::rule::MAIN_PRIORITY;

use crate::hosts;

/// Enters it into the half, which has all else; `hosts6` are the site's destinations of IPv6.
pub fn publish(
    half: &mut ControlHalf,
    site: &Site,
    kernel: &Kernel,
    hosts6: Option<&hosts::Sources<Ipv6Net>>,
) {
    for family in Family::ALL {
        let Some(policy) = policy(site, kernel, family) else { continue };
        let places = match (family, hosts6) {
            (Family::V6, Some(hosts)) => places(hosts),
            _ => own(kernel),
        };
        let Some(origins) = origins(half, site, family, &places) else { continue };
        let Stateless {
            active, policy: number, selection, count, remembers, origins: slots, ..
        } = &mut half.stateless[family.index()];
        (*active, *number, *selection) = (1, site.default_policy, policy.selection as u8);
        *remembers = u8::from(has_plain_rules(kernel, family));
        *count = origins.len() as u8;
        slots[..origins.len()].copy_from_slice(&origins);
    }
}

/// The policy of all packets of a family, if they need no flows.
fn policy<'s>(site: &'s Site, kernel: &Kernel, family: Family) -> Option<&'s PolicyConfig> {
    let mut paths = site.uplinks.iter().filter(|uplink| uplink.has_path(family)).peekable();
    let steered = site.rules.iter().any(|rule| rule.is_of(family));
    let policy = site.policies.get(usize::from(site.default_policy))?;
    let any = paths.peek().is_some();
    let all = paths.all(|uplink| is_open(uplink, family) && forwards(uplink, kernel, family));
    (any && all && !steered && stands(policy, site)).then_some(policy)
}

/// Does all that comes and goes by the path pass as it is?
fn is_open(uplink: &UplinkConfig, family: Family) -> bool {
    let unchanged = matches!(uplink.translation(family), Translate::None | Translate::Source);
    let rescues = family == Family::V6 && uplink.ipv6.as_ref().is_some_and(|ipv6| ipv6.rescue);
    unchanged && uplink.is_inbound(family) && !uplink.is_pinned(family) && !rescues
}

/// Does the kernel forward what comes by the uplink? It says where hosts of LANs are.
fn forwards(uplink: &UplinkConfig, kernel: &Kernel, family: Family) -> bool {
    kernel.link(&uplink.interface).is_none_or(|link| link.forwards[family.index()])
}

/// Do others' routing rules begin with the main table's, so that where a packet to a LAN leaves
/// does not depend on its source, nor on where it came in?
fn has_plain_rules(kernel: &Kernel, family: Family) -> bool {
    kernel.foremost.of(family).is_none_or(|first| first >= MAIN_PRIORITY)
}

/// Do weights alone share packets? What goes by load or delay moves to and fro, and would take with
/// it what is under way.
fn stands(policy: &PolicyConfig, site: &Site) -> bool {
    let spills =
        |uplink: u8| site.uplinks.get(usize::from(uplink)).is_some_and(|u| u.spill.is_some());
    let by_headers = match policy.selection {
        Selection::SourceDestination
        | Selection::Flow
        | Selection::Source
        | Selection::FlowLabel => true,
        Selection::Host => false,
    };
    by_headers
        && policy.balance == Balance::Hash
        && !(policy.spillover && policy.members.iter().any(|member| spills(member.uplink)))
}

/// A network, and whether it is a LAN's: within a LAN's prefix some may be elsewhere, by a VPN, or
/// the gateway's own. What is narrower comes first.
type Places = Vec<(IpNet, bool)>;

/// Whose the parts of LANs' prefixes are, as XDP has it of destinations: what is not a LAN's is no
/// source of its hosts.
fn places(hosts: &hosts::Sources<Ipv6Net>) -> Places {
    let place =
        |((address, length), class)| Some((net(address, length, 6)?, class == host_class::LAN));
    let mut places: Places = hosts.prefixes_about_lans().into_iter().filter_map(place).collect();
    places.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
    places
}

/// The gateway's own addresses. Of IPv4 neither tier asks more of a source.
fn own(kernel: &Kernel) -> Places {
    kernel.addresses.iter().map(|(_, net)| (IpNet::from(net.addr()), false)).collect()
}

/// Which packets from LANs may leave, and by which uplinks, the narrower prefixes first; `None`:
/// there are too many, or one is wider than what may be said of it.
fn origins(
    half: &ControlHalf,
    site: &Site,
    family: Family,
    places: &Places,
) -> Option<Vec<Origin>> {
    let members = half.policies[usize::from(site.default_policy)].members();
    let is_of_lan = |source: &IpNet| {
        places.iter().find(|(net, _)| net.contains(source)).is_none_or(|(_, of_lan)| *of_lan)
    };
    let carriers = |source: IpNet| {
        let weighs = |member: &&Member| member.weight & Member::MAX_WEIGHT != 0;
        let carries = |member: &&Member| {
            let path = PathId::new(member.uplink, family);
            let has = site.uplinks.get(usize::from(member.uplink));
            has.is_some_and(|uplink| uplink.has_path(family)) && carries(half, path, source.addr())
        };
        let carriers = members.iter().filter(|_| is_of_lan(&source)).filter(weighs).filter(carries);
        carriers.fold(0, |carriers, member| carriers | 1 << (member.uplink & 63))
    };
    let mut found: Vec<(IpNet, u8, u64)> = Vec::new();
    for (prefix, port) in half.lan_prefixes().iter().zip(&half.lan_prefix_ports) {
        let Some(lan) = net(prefix.address, prefix.length, prefix.family) else { continue };
        if family_of(&lan) != family || *port == NONE {
            continue;
        }
        let delegated = half.path_prefixes().iter().filter(|_| family == Family::V6);
        let delegated = delegated.filter_map(|of| net(of.outside, of.outside_len, 6));
        let parts = delegated.chain(places.iter().map(|(net, _)| *net));
        for source in parts.filter(|of| lan.contains(of) && *of != lan).chain([lan]) {
            if !is_uniform(&source) {
                return None;
            }
            found.push((source, *port, carriers(source)));
        }
    }
    found.sort_by_key(|(source, ..)| Reverse(source.prefix_len()));
    found.dedup();
    let found = without_needless(&found);
    let origin = |(source, port, carriers): &(IpNet, u8, u64)| {
        let Address(address) = Address::from(source.network());
        Origin::new(address, source.prefix_len(), *port, *carriers)
    };
    (found.len() <= MAX_ORIGINS).then(|| found.into_iter().map(origin).collect())
}

/// Those of which the next wider one behind the same port does not say the same.
fn without_needless(found: &[(IpNet, u8, u64)]) -> Vec<&(IpNet, u8, u64)> {
    let says_more = |(at, (source, port, carriers)): &(usize, &(IpNet, u8, u64))| {
        let mut wider = found[at + 1..].iter();
        let wider = wider.find(|(net, of, _)| of == port && net.contains(source));
        wider.is_none_or(|(.., same)| same != carriers)
    };
    found.iter().enumerate().filter(says_more).map(|(_, origin)| origin).collect()
}

fn carries(half: &ControlHalf, path: PathId, source: std::net::IpAddr) -> bool {
    match source {
        std::net::IpAddr::V4(source) => half.carries(path, source.octets()),
        std::net::IpAddr::V6(source) => half.carries(path, source.octets()),
    }
}

/// Is either none of its addresses routed by any provider, or each?
fn is_uniform(source: &IpNet) -> bool {
    let is_part = |(first, length): ([u8; 16], u8)| {
        net(first, length, 6).is_some_and(|part| part != *source && source.contains(&part))
    };
    !UNROUTED.into_iter().any(is_part)
}

fn net(address: [u8; 16], length: u8, family: u8) -> Option<IpNet> {
    let address = match family {
        4 => <[u8; 4]>::from_address(Address(address)).into(),
        6 => address.into(),
        _ => return None,
    };
    IpNet::new(address, length).ok()
}

fn family_of(net: &IpNet) -> Family {
    Family::of(net.addr())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_layout::control::ControlHalf;
    use weir_view::own::Foremost;
    use weir_view::{Link, Route};

    use super::*;
    use crate::{Overrides, derive};

    const OPEN: &str = "ipv6 = { translate = \"none\", inbound = true }";

    /// A site with two uplinks, whose IPv6 is as said, and a kernel that forwards.
    fn published(lan: &str, ipv6: [&str; 2], rest: &str) -> Box<ControlHalf> {
        published_by(lan, ipv6, rest, true)
    }

    fn published_by(lan: &str, ipv6: [&str; 2], rest: &str, forwards: bool) -> Box<ControlHalf> {
        let (site, kernel) = site_and_kernel(lan, ipv6, rest, forwards);
        derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half
    }

    fn site_and_kernel(lan: &str, [a, b]: [&str; 2], rest: &str, forwards: bool) -> (Site, Kernel) {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\nprefixes = [{lan}]\n\
             [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n{a}\n\
             [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\n{b}\n{rest}"
        );
        let site = weir_site::parse("weir.toml", &text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
        let link = |(index, name): (u32, &&str)| Link {
            index,
            name: (*name).into(),
            running: true,
            mac: [2, 0, 0, 0, 0, index as u8],
            queues: 1,
            mtu: 1500,
            forwards: [forwards; Family::COUNT],
            ..Link::default()
        };
        let links = (1..).zip(&["lan0", "wan0", "wan1"]).map(link).collect();
        let addresses = vec![(1, "2001:2:0:77::1/64".parse().unwrap())];
        (site, Kernel { links, addresses, ..Kernel::default() })
    }

    fn is_active(half: &ControlHalf) -> [bool; 2] {
        Family::ALL.map(|family| half.stateless(family).is_some())
    }

    const LAN: &str = "\"2001:2:0:77::/64\"";

    #[test]
    fn a_family_needs_no_flows_where_no_path_filters_translates_or_is_pinned() {
        let active = |a: &str, rest: &str| is_active(&published(LAN, [a, OPEN], rest))[1];
        assert!(active(OPEN, ""));
        for other in [
            "ipv6 = { translate = \"none\" }",
            "ipv6 = { translate = \"none\", inbound = true, pin = true }",
            "ipv6 = { translate = \"nat66\" }",
            "spill = { above = 80, below = 60 }\nipv6 = { translate = \"none\", inbound = true }",
        ] {
            assert!(!active(other, ""), "{other}");
        }
        assert!(active("", ""), "an uplink without IPv6");
        assert!(!is_active(&published("\"10.1.0.0/16\"", ["", ""], ""))[1]);
        let policy = |says: &str| format!("[[policy]]\nname = \"all\"\n{says}");
        for says in ["selection = \"flow\"", "selection = \"source\"", "spillover = false"] {
            assert!(active(OPEN, &policy(says)), "{says}");
        }
        assert!(!active(OPEN, &policy("balance = \"lowest-latency\"")));
        let rule = |says: &str| {
            format!("{}[[rule]]\nname = \"some\"\npolicy = \"all\"\n{says}\n", policy("\n"))
        };
        assert!(!active(OPEN, &rule("protocol = \"tcp\"")));
        assert!(!active(OPEN, &rule("source = \"2001:2:0:77::9/128\"")));
        assert!(active(OPEN, &rule("source = \"10.1.0.0/16\"")), "of the other family");
        let by_set = |prefixes: &str, not: &str| {
            let set = format!("[[set]]\nname = \"some\"\nprefixes = [{prefixes}]\n");
            active(OPEN, &(rule(&format!("destination = \"{not}@some\"")) + &set))
        };
        assert!(!by_set("\"2001:2::/32\"", "") && !by_set("\"2001:2::/32\"", "!"));
        assert!(!by_set("\"10.0.0.0/8\", \"2001:2::/32\"", "") && !by_set("", "!"));
        assert!(!by_set("\"10.0.0.0/8\"", "!"), "what is not in it is of both families");
        assert!(by_set("\"10.0.0.0/8\"", "") && by_set("", ""));
        assert!(!is_active(&published_by(LAN, [OPEN, OPEN], "", false))[1], "none forwards");
    }

    #[test]
    fn where_hosts_are_is_remembered_unless_rules_may_look_at_more_than_the_destination() {
        let remembers = |v6| {
            let (site, mut kernel) = site_and_kernel(LAN, [OPEN, OPEN], "", true);
            kernel.foremost = Foremost { v6, ..Foremost::default() };
            let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
            half.stateless(Family::V6).unwrap().remembers
        };
        assert_eq!([None, Some(MAIN_PRIORITY)].map(remembers), [1, 1]);
        assert_eq!([Some(1000), Some(MAIN_PRIORITY - 1)].map(remembers), [0, 0]);
    }

    #[test]
    fn a_rule_about_uplinks_gives_its_family_flows() {
        let active = |criteria: &str| {
            let rule = format!("[[rule]]\nfrom = \"uplink\"\naction = \"drop\"\n{criteria}\n");
            let half = published(LAN, [OPEN, OPEN], &rule);
            let ruled =
                [0, 1].map(|number: usize| half.uplinks[number].path(Family::V6).is_ruled());
            (is_active(&half)[1], ruled)
        };
        assert_eq!(active(""), (false, [true; 2]));
        assert_eq!(active("destination = \"2001:2:0:77::5/128\""), (false, [true; 2]));
        assert_eq!(active("uplinks = [\"b\"]"), (false, [false, true]));
        assert_eq!(active("source = \"192.0.2.0/24\""), (true, [false; 2]));
    }

    #[test]
    fn ipv4_needs_no_flows_by_the_same_rule() {
        let lan = "\"192.0.2.0/24\"";
        let open = "translate = \"none\"\ninbound = true";
        let active = |a: &str| is_active(&published(lan, [a, open], ""))[0];
        assert!(active(open));
        assert!(!active("translate = \"none\"") && !active(""));
        assert!(!active("translate = \"none\"\ninbound = true\npin = true"));
    }

    fn found(half: &ControlHalf, source: &str) -> Option<(u64, u8)> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        let words = Origin::new(source.octets(), 128, 0, 0).address;
        let origins = half.stateless(Family::V6).unwrap().origins();
        let origin = origins.iter().find(|origin| origin.is_of(0, words))?;
        Some((origin.carriers, origin.only))
    }

    #[test]
    fn a_source_has_the_uplinks_that_carry_it_and_the_gateways_own_has_none() {
        let half = published(LAN, [OPEN, OPEN], "");
        assert_eq!(found(&half, "2001:2:0:77::2"), Some((0b11, NONE)));
        assert_eq!(found(&half, "2001:2:0:77::1"), Some((0, NONE)));
        assert_eq!(found(&half, "2001:2:0:78::1"), None);
        let first = &half.stateless(Family::V6).unwrap().origins()[1];
        let [a, _] = first.address;
        assert!(first.is_of(0, [a, 9]) && !first.is_of(1, [a, 9]), "behind its port alone");
    }

    #[test]
    fn prefixes_of_providers_within_a_lans_come_first() {
        let source = |prefix: &str| {
            format!(
                "ipv6 = {{ translate = \"source\", prefixes = [\"{prefix}\"], inbound = true }}"
            )
        };
        let lan = "\"2001:2:1::/48\", \"2001:2:2:3::/64\", \"fd01::/64\"";
        let paths = [source("2001:2:1:100::/56"), source("2001:2:2::/56")];
        let half = published(lan, [&paths[0], &paths[1]], "");
        assert_eq!(found(&half, "2001:2:1:123::2"), Some((0b01, 0)));
        assert_eq!(found(&half, "2001:2:2:3::2"), Some((0b10, 1)));
        assert_eq!(found(&half, "2001:2:1:200::2"), Some((0, NONE)), "nobody's");
        assert_eq!(found(&half, "fd01::2"), Some((0, NONE)));
        let mixed = published(lan, [&paths[0], OPEN], "");
        assert_eq!(found(&mixed, "2001:2:1:123::2"), Some((0b01, 0)));
        assert_eq!(found(&mixed, "2001:2:1:200::2"), Some((0b10, 1)), "the site's own");
        assert_eq!(found(&mixed, "fd01::2"), Some((0, NONE)), "no provider routes it back");
    }

    #[test]
    fn a_prefix_of_which_not_all_may_be_said_leaves_the_family_its_flows() {
        let active = |lan: &str| is_active(&published(lan, [OPEN, OPEN], ""))[1];
        assert!(!active("\"2001::/20\""), "documentation is within");
        let many: Vec<_> = (0..64).map(|n| format!("\"2001:2:0:{:x}::/64\"", 0x100 + n)).collect();
        assert!(active(&many[1..].join(", ")));
        let one_more = format!("{}, {LAN}", many[1..].join(", "));
        assert!(!active(&one_more), "with the gateway's address these are too many");
    }

    #[test]
    fn an_uplink_that_is_no_member_carries_nothing() {
        let members = "[[policy]]\nname = \"all\"\nmembers = [{ uplink = \"b\", weight = 1 }]\n";
        let half = published(LAN, [OPEN, OPEN], members);
        assert_eq!(found(&half, "2001:2:0:77::2"), Some((0b10, 1)), "a is no member");
    }

    /// Carriers of sources, where the kernel routes these parts of the LAN's prefix by the
    /// interface of a VPN, which is 9, or the LAN's, which is 1.
    fn with_routes(routes: &[(u32, &str)], sources: &[&str]) -> Option<Vec<u64>> {
        let (site, mut kernel) = site_and_kernel("\"2001:2:1::/48\"", [OPEN, OPEN], "", true);
        kernel.links.push(Link { index: 9, name: "vpn0".into(), ..Link::default() });
        let by = |(interface, to): &(u32, &str)| Route::by(*interface, to.parse().unwrap());
        kernel.routes6 = Arc::new(routes.iter().map(by).collect::<Vec<_>>().into());
        let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        half.stateless(Family::V6)?;
        Some(sources.iter().map(|source| found(&half, source).map_or(0, |(by, _)| by)).collect())
    }

    #[test]
    fn what_the_kernel_has_elsewhere_within_a_lans_prefix_is_no_source_of_the_lan() {
        let routes = [(9, "2001:2:1:5::/64"), (1, "2001:2:1:5:1::/80")];
        let sources = ["2001:2:1:5::2", "2001:2:1:5:1::2", "2001:2:1:7::2", "2001:2:2::"];
        assert_eq!(with_routes(&routes, &sources), Some(vec![0, 0b11, 0b11, 0]));
        assert_eq!(with_routes(&[(9, "2001:2::/32")], &sources[..1]), Some(vec![0b11]));
    }

    #[test]
    fn what_says_nothing_more_takes_no_origin_and_too_much_leaves_the_family_its_flows() {
        let parts = |count: u32, by: u32| {
            let parts: Vec<_> = (0..count).map(|n| format!("2001:2:1:{n:x}::/64")).collect();
            let routes: Vec<_> = parts.iter().map(|to| (by, to.as_str())).collect();
            with_routes(&routes, &["2001:2:1:0::2"])
        };
        assert_eq!(parts(100, 1), Some(vec![0b11]), "the LAN's own");
        assert_eq!(parts(63, 9), Some(vec![0]));
        assert_eq!(parts(64, 9), None);
    }
}
