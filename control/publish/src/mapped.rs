//! Ports that hosts of LANs ask for: what they may have, and what they have as services.
//!
//! A port is open by all uplinks. What hosts are told is the address of one: of those that take new
//! flows of their LAN's policy, in its best tier, the one of most weight. An address that the
//! Internet does not reach, behind a provider's NAT say, is told where there is no other.

use std::cmp::Reverse;
use std::net::IpAddr;

use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf, Member, PathId, Translate};
use weir_layout::protocol::UDP;
use weir_ports::{Limits, Mapping, Outside, Realm, Reserved, Situation};
use weir_site::{LEASES, Lan, PublishConfig, Site, To};
use weir_view::Kernel;

use crate::advertised::policy;

/// What hosts may have; `takers` are by family and policy the uplinks that take new flows.
pub fn situation(
    site: &Site,
    kernel: &Kernel,
    half: &ControlHalf,
    takers: [&[u64]; Family::COUNT],
) -> Situation {
    if !site.lans.iter().any(|lan| lan.port_mapping) {
        return Situation::default();
    }
    let asking = site.lans.iter().enumerate().filter(|(_, lan)| lan.port_mapping);
    let realms = asking.flat_map(|(index, lan)| {
        let policy = policy(site, index);
        let of = move |family: Family| {
            let takers = takers[family.index()].get(policy).copied().unwrap_or(0);
            let outside = outside(half, policy, family, takers);
            realm(site, kernel, lan, family, outside)
        };
        site.families().map(of).collect::<Vec<_>>()
    });
    let limits = site.port_mapping;
    Situation {
        realms: realms.collect(),
        reserved: reserved(site),
        limits: Limits {
            ports: limits.ports,
            max_lifetime: limits.max_lifetime,
            per_host: limits.per_host.into(),
        },
        upnp: limits.upnp,
    }
}

/// What hosts have, as services of a site.
pub fn services(site: &Site, mappings: &[Mapping]) -> Vec<PublishConfig> {
    let allowed = mappings.iter().filter(|mapping| {
        site.lans.iter().any(|lan| lan.port_mapping && lan.interface == mapping.lan)
    });
    let service = |mapping: &Mapping| {
        let uplinks = (0u8..).zip(&site.uplinks);
        let open = uplinks.filter(|(_, uplink)| uplink.has_path(mapping.family()));
        PublishConfig {
            name: mapping.name(),
            protocols: vec![mapping.protocol],
            ports: (mapping.port, mapping.port),
            to: vec![To::Host(mapping.inside)],
            uplinks: open.map(|(index, _)| index).collect(),
            from: mapping.filters.clone(),
            allowed_sets: 0,
            barred_sets: 0,
            line: 0,
        }
    };
    allowed.map(service).collect()
}

fn realm(site: &Site, kernel: &Kernel, lan: &Lan, family: Family, outside: Outside) -> Realm {
    let link = kernel.link(&lan.interface).map(|link| link.index);
    let of_lan = kernel.addresses.iter().filter(|(index, _)| Some(*index) == link);
    let servers = of_lan.map(|(_, net)| net.addr());
    let networks = [lan.networks(family, kernel), site.behind_routers(lan, kernel)].concat();
    let is_napt = |uplink: &weir_site::UplinkConfig| {
        uplink.has_path(family) && uplink.translation(family) == Translate::Napt
    };
    Realm {
        lan: lan.interface.clone(),
        link,
        family,
        servers: servers.filter(|address| Family::of(*address) == family).collect(),
        networks: networks.into_iter().filter(|net| Family::of(net.addr()) == family).collect(),
        outside,
        shares_addresses: site.uplinks.iter().any(is_napt),
    }
}

/// What hosts have outside by the best of the uplinks that take new flows of a policy.
fn outside(half: &ControlHalf, policy: usize, family: Family, takers: u64) -> Outside {
    let Some(policy) = half.policies.get(policy) else { return Outside::Nowhere };
    let open = policy.members().iter().filter(|member| takers >> (member.uplink & 63) & 1 != 0);
    let is_hidden = |member: &Member| {
        let path = half.path(PathId::new(member.uplink, family));
        let napt = path.filter(|path| path.translation() == Translate::Napt);
        let first = napt.and_then(|path| path.addresses().first().copied());
        first.is_some_and(|first| !is_reached(ip(family, first)))
    };
    let rank = |member: &&Member| {
        let weight = Reverse(member.weight & Member::MAX_WEIGHT);
        (is_hidden(member), member.tier, weight, member.uplink)
    };
    let Some(best) = open.min_by_key(rank) else { return Outside::Nowhere };
    let path = half.path(PathId::new(best.uplink, family));
    match path.map(|path| (path.translation(), path.addresses())) {
        Some((Translate::Napt, [first, ..])) => Outside::Shared(ip(family, *first)),
        None | Some((Translate::Napt, [])) => Outside::Nowhere,
        Some((Translate::None | Translate::Source, _)) => Outside::Own,
        Some((Translate::Npt, _)) => {
            Outside::Translated(half.prefixes_of(best.uplink).copied().collect())
        }
    }
}

/// The ports that are the file's, and those of the gateway's leases.
fn reserved(site: &Site) -> Vec<Reserved> {
    let families: Vec<Family> = site.families().collect();
    let published = site.publish.iter().flat_map(|publish| {
        let reserved = |service: weir_site::Service| Reserved {
            family: service.family,
            protocol: service.protocol,
            ports: publish.ports,
            host: service.host.map(|host| host.ip()),
        };
        publish.services(&families).into_iter().map(reserved).collect::<Vec<_>>()
    });
    let leases = families.iter().flat_map(|family| {
        let reserved =
            |port| Reserved { family: *family, protocol: UDP, ports: (port, port), host: None };
        LEASES.map(reserved)
    });
    published.chain(leases).collect()
}

/// Does the Internet reach an address? Not one of private networks (RFC 1918, RFC 4193), of a
/// provider's NAT (RFC 6598), or of a link (RFC 3927, RFC 4291).
fn is_reached(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(of) => {
            let [first, second, ..] = of.octets();
            let is_of_provider = first == 100 && second & 0xc0 == 64;
            !(of.is_private() || of.is_link_local() || is_of_provider)
        }
        IpAddr::V6(of) => !(of.is_unique_local() || of.is_unicast_link_local()),
    }
}

fn ip(family: Family, address: Address) -> IpAddr {
    match family {
        Family::V4 => address.to_v4().into(),
        Family::V6 => address.0.into(),
    }
}

#[cfg(test)]
mod tests {
    use weir_ports::Owner;
    use weir_view::Link;

    use super::*;
    use crate::{Overrides, derive};

    const SITE: &str = "[port_mapping]\nports = \"20000-30000\"\n\
        [[lan]]\ninterface = \"lan0\"\nport_mapping = true\n\
        [[lan]]\ninterface = \"lan1\"\n\
        [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\naddresses = [\"192.0.2.2\"]\n\
        [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\naddresses = [\"198.51.100.2\"]\nweight = 5\n\
        ipv6 = { translate = \"none\" }\n\
        [[uplink]]\nname = \"c\"\ninterface = \"wan2\"\naddresses = [\"203.0.113.2\"]\nweight = 9\n\
        [[policy]]\nname = \"balanced\"\nmembers = [{ uplink = \"a\" }, { uplink = \"b\" }, \
        { uplink = \"c\", tier = 2 }]\n\
        [[publish]]\nname = \"web\"\nprotocol = \"tcp\"\nports = 443\nto = \"10.0.0.9\"\n";

    fn kernel() -> Kernel {
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let addresses = [(1, "10.0.0.1/24"), (1, "2001:db8:1::1/64"), (2, "10.1.0.1/24")];
        let links = [(1, "lan0"), (2, "lan1"), (3, "wan0"), (4, "wan1"), (5, "wan2")];
        Kernel {
            links: links.map(|(index, name)| link(index, name)).into(),
            addresses: addresses.map(|(index, net)| (index, net.parse().unwrap())).into(),
            ..Kernel::default()
        }
    }

    fn of(takers: [&[u64]; 2]) -> Situation {
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let half = derive(&site, &kernel(), &Overrides::default(), [&[]; 2], None).half;
        situation(&site, &kernel(), &half, takers)
    }

    #[test]
    fn hosts_are_told_the_address_of_the_best_uplink_that_takes_new_flows() {
        let told = |takers: u64| of([&[takers], &[takers]]).realms.remove(0).outside;
        let shared = |address: &str| Outside::Shared(address.parse().unwrap());
        assert_eq!(told(0b111), shared("198.51.100.2"));
        assert_eq!(told(0b101), shared("192.0.2.2"));
        assert_eq!(told(0b100), shared("203.0.113.2"));
        assert_eq!(told(0), Outside::Nowhere);
    }

    #[test]
    fn an_address_that_the_internet_does_not_reach_is_told_where_there_is_no_other() {
        for hidden in ["10.9.0.2", "100.64.0.2", "192.168.1.2", "169.254.1.2"] {
            let text = SITE.replace("198.51.100.2", hidden);
            let site = weir_site::parse("weir.toml", &text).unwrap();
            let half = derive(&site, &kernel(), &Overrides::default(), [&[]; 2], None).half;
            let told = |takers: u64| {
                let of_family = [takers];
                let takers = [&of_family[..]; 2];
                situation(&site, &kernel(), &half, takers).realms.remove(0).outside
            };
            let shared = |address: &str| Outside::Shared(address.parse().unwrap());
            assert_eq!(told(0b111), shared("192.0.2.2"), "{hidden}");
            assert_eq!(told(0b110), shared("203.0.113.2"), "{hidden}: of a later tier");
            assert_eq!(told(0b010), shared(hidden));
        }
    }

    #[test]
    fn a_lan_that_may_ask_does_so_in_both_families_and_others_not() {
        let situation = of([&[0b11], &[0b10]]);
        let [v4, v6] = &situation.realms[..] else { panic!("{:?}", situation.realms) };
        assert!(v4.is("lan0", Family::V4) && v6.is("lan0", Family::V6));
        assert_eq!((v4.shares_addresses, v6.shares_addresses), (true, false));
        assert_eq!(v6.outside, Outside::Own);
        let texts = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&v4.servers), ["10.0.0.1"]);
        assert_eq!(texts(&v6.servers), ["2001:db8:1::1"]);
        let host = |text: &str| text.parse().unwrap();
        assert!(v4.holds(host("10.0.0.5")) && !v4.holds(host("10.1.0.5")));
        assert!(v6.holds(host("2001:db8:1::5")) && !v6.holds(host("fe80::5")));
    }

    #[test]
    fn ports_of_the_file_are_reserved_and_its_bounds_hold() {
        let situation = of([&[], &[]]);
        let web = situation.reserved.iter().find(|of| of.protocol == 6).unwrap();
        assert_eq!((web.family, web.ports), (Family::V4, (443, 443)));
        assert!(situation.reserved.iter().any(|of| of.protocol == 17 && of.ports == (68, 68)));
        assert_eq!(situation.limits.ports, (20_000, 30_000));
    }

    #[test]
    fn what_a_host_has_is_a_service_by_all_uplinks_of_its_family() {
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let mapping = |lan: &str, inside: &str, from: &str| Mapping {
            id: 7,
            lan: lan.into(),
            inside: inside.parse().unwrap(),
            protocol: 6,
            port: 20_000,
            owner: Owner::NatPmp,
            filters: vec![from.parse().unwrap()],
            until: 0,
        };
        let mappings = [
            mapping("lan0", "10.0.0.5:80", "192.0.2.0/24"),
            mapping("lan0", "[2001:db8:1::5]:80", "2001:db8:9::/48"),
            mapping("lan1", "10.1.0.5:80", "192.0.2.0/24"),
        ];
        let services = services(&site, &mappings);
        let uplinks: Vec<_> = services.iter().map(|it| it.uplinks.clone()).collect();
        assert_eq!(uplinks, [vec![0, 1, 2], vec![1]], "lan1 may not");
        let site = Site { mapped: services, ..site };
        let half = derive(&site, &kernel(), &Overrides::default(), [&[]; 2], None).half;
        let [_, v4, v6] = half.port_forwards() else { panic!("web and two") };
        assert_eq!((v4.name.as_str(), v4.ports, v4.inside_port), ("nat-pmp:7", [20_000; 2], 80));
        assert_eq!(half.allowed(v4).unwrap().len(), 1);
        assert_eq!(v6.uplinks, 0b10);
    }
}
