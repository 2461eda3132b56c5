//! From a site and the kernel's view to the state that is published.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weir_layout::control::{
    Address, ControlHalf, DeviceFault, MAX_LAN_PREFIXES, MAX_POOL, Mac, Member, Name, Path,
    PortRole, Prefix, Rule, TcpMapping, Translate, Uplink, inbound, path_state,
};
use weir_layout::control::{Set, SetTest};
use weir_layout::flow::slots_for;
use weir_layout::set::IndexSet;
use weir_layout::{Family, NONE};
use weir_shm::control::empty_half;
use weir_site::{Among, Site, UplinkConfig};
use weir_view::{Kernel, Link};

use crate::hosts;
use crate::overrides::{Hand, Overrides};
use crate::own_peers;
use crate::path_prefixes;
use crate::port_addresses;
use crate::ports::Ports;
use crate::prefix::prefix;
use crate::retired;
use crate::services;
use crate::stateless;

/// Everything to be published, but for the bucket tables.
pub struct Derived {
    /// The half.
    pub half: Box<ControlHalf>,
    /// By [`Family`], what the kernel and the operator say of each uplink's path, as bits of its
    /// state word; a drained one is both down and draining.
    pub problems: [Vec<u32>; Family::COUNT],
    /// What decides which destinations stay on the gateway.
    pub hosts: hosts::Sources<Ipv4Net>,
    /// The same of IPv6, where the site has paths of it.
    pub hosts6: Option<hosts::Sources<Ipv6Net>>,
    /// Next hops whose hardware address should be asked for.
    pub unresolved: Vec<(u32, IpAddr)>,
}

/// Derives the state; pure. `since` says by [`Family`] since when each uplink's path is usable or not;
/// `last` is what was published before, for the numbers of ports.
pub fn derive(
    site: &Site,
    kernel: &Kernel,
    overrides: &Overrides,
    since: [&[u64]; Family::COUNT],
    last: Option<&ControlHalf>,
) -> Derived {
    let mut half = empty_half();
    half.config_hash = site.hash;
    half.on_dataplane_loss = site.on_dataplane_loss as u8;
    half.default_policy = site.default_policy;
    half.workers = site.workers;
    half.timeouts = site.timeouts;
    half.flows_per_host = site.flows_per_host;
    half.new_flows_per_host = site.new_flows_per_host;
    half.flow_slots = slots_for(site.flow_table);
    half.tier = site.tier.here() as u8;
    for (core, given) in half.cores.iter_mut().zip(&site.cores) {
        *core = *given;
    }

    let mut ports = Ports::new(&mut half, last, kernel);
    let mut lan_ports = Vec::new();
    for lan in &site.lans {
        lan_ports.push(ports.add(&lan.interface, PortRole::Lan, NONE));
    }
    let uplink_ports: Vec<_> = (0u8..)
        .zip(&site.uplinks)
        .map(|(index, uplink)| ports.add(&uplink.interface, PortRole::Uplink, index))
        .collect();

    ports.by_interface();
    port_addresses::enter(&mut half, site, kernel, &lan_ports, &uplink_ports);

    let mut lans = lan_nets(site, kernel, &lan_ports);
    let connected: Vec<IpNet> = lans.iter().map(|(net, _)| *net).collect();
    lans.extend(behind_routers(site, kernel, &lan_ports));
    lans.truncate(MAX_LAN_PREFIXES);
    for (index, (net, port)) in lans.iter().enumerate() {
        half.lan_prefixes[index] = prefix(net);
        half.lan_prefix_ports[index] = port.unwrap_or(NONE);
        if let (IpNet::V6(_), Some(port)) = (net, port) {
            half.ports[usize::from(*port)].ipv6 = 1;
        }
    }
    let lan_nets: Vec<IpNet> = lans.into_iter().map(|(net, _)| net).collect();
    half.lan_prefix_count = lan_nets.len() as u32;

    let mut problems = Family::ALL.map(|_| Vec::new());
    let mut unresolved = Vec::new();
    for (index, (uplink, port)) in site.uplinks.iter().zip(&uplink_ports).enumerate() {
        let slot = &mut half.uplinks[index];
        let by_hand = of_uplink(slot, uplink, overrides, index as u8);
        slot.port = port.unwrap_or(NONE);
        if let Some(port) = port {
            let port = &mut half.ports[usize::from(*port)];
            port.ipv6 = uplink.has_path(Family::V6).into();
            slot.clamp_mss = uplink.clamp_mss.most(port.mtu);
        }
        let (name, link) = (slot.name, kernel.link(&uplink.interface));
        let of_link = of_link(uplink, link, kernel, port.is_some());
        for family in Family::ALL {
            let path = slot.path_mut(family);
            path.since = since[family.index()].get(index).copied().unwrap_or(0);
            let found = if uplink.has_path(family) {
                let clash = |link| weir_site::clashes(uplink, family, link, kernel, &connected);
                let mute = |link: &Link| {
                    uplink.has_targets(family)
                        && !site.has_source(uplink, family, link.index, kernel)
                };
                let awaits = family == Family::V6 && uplink.awaits_prefix();
                let unusable = awaits || link.is_some_and(|link| clash(link) || mute(link));
                of_settings(path, uplink, family, site.nat_ports);
                let found = of_kernel(path, uplink, family, link, kernel, &mut unresolved);
                if let (Some(link), Some(last)) = (link, last) {
                    retired::keep(path, link.index, kernel, retired::held(last, name, family));
                }
                of_link | found | if unusable { path_state::NO_ADDRESS } else { 0 }
            } else {
                path_state::NOT_CONFIGURED
            };
            problems[family.index()].push(by_hand | found);
        }
    }
    let maps_tcp = |uplink: &UplinkConfig| uplink.tcp_mapping == TcpMapping::Endpoint;
    half.nat_log = site.nat_log.is_some().into();
    half.maps_tcp = site.uplinks.iter().any(maps_tcp).into();
    path_prefixes::publish(&mut half, site, kernel);
    policies(&mut half, site, overrides);
    rules(&mut half, site, &lan_ports);
    ruled(&mut half, site);
    sets(&mut half, site);
    own_peers::publish(&mut half, site, kernel);
    services::publish(&mut half, site);
    let hosts = hosts::Sources::<Ipv4Net>::of(site, kernel, &lan_nets, &half);
    let hosts6 = site.has_ipv6();
    let hosts6 = hosts6.then(|| hosts::Sources::<Ipv6Net>::of(site, kernel, &lan_nets, &half));
    stateless::publish(&mut half, site, kernel, hosts6.as_ref());
    Derived { half, problems, hosts, hosts6, unresolved }
}

/// The prefixes of all LANs, given or connected, in the families of the site, and the port of each.
fn lan_nets(site: &Site, kernel: &Kernel, lan_ports: &[Option<u8>]) -> Vec<(IpNet, Option<u8>)> {
    let mut nets = Vec::new();
    for family in site.families() {
        for (lan, port) in site.lans.iter().zip(lan_ports) {
            nets.extend(lan.networks(family, kernel).into_iter().map(|net| (net, *port)));
        }
    }
    nets
}

/// The networks behind routers of LANs, likewise.
fn behind_routers(
    site: &Site,
    kernel: &Kernel,
    lan_ports: &[Option<u8>],
) -> impl Iterator<Item = (IpNet, Option<u8>)> {
    site.lans.iter().zip(lan_ports).flat_map(move |(lan, port)| {
        site.behind_routers(lan, kernel).into_iter().map(move |net| (net, *port))
    })
}

/// What an uplink has whatever the family; what the operator wants of it, as bits of state words.
fn of_uplink(slot: &mut Uplink, uplink: &UplinkConfig, overrides: &Overrides, index: u8) -> u32 {
    slot.name = Name::new(&uplink.name);
    slot.filtering = uplink.filtering as u8;
    slot.tcp_mapping = uplink.tcp_mapping as u8;
    slot.weight = overrides.weights.get(&index).copied().unwrap_or(uplink.weight);
    slot.weight_overridden = u8::from(overrides.weights.contains_key(&index));
    let hand = overrides.hands.get(&index);
    slot.drain_until = match hand {
        Some(Hand::Draining(until) | Hand::Drained(until)) => *until,
        Some(Hand::Down) | None => 0,
    };
    hand.map_or(0, |hand| hand.bits())
}

/// What is wrong with an uplink's link, for both of its paths.
fn of_link(uplink: &UplinkConfig, link: Option<&Link>, kernel: &Kernel, has_port: bool) -> u32 {
    let cut = if link.is_some_and(|link| link.running) { 0 } else { path_state::NO_CARRIER };
    if has_port {
        return cut;
    }
    cut | match kernel.usable(&uplink.interface) {
        Ok(_) | Err(DeviceFault::Missing) => path_state::NO_CARRIER,
        Err(_) => path_state::NO_DEVICE,
    }
}

/// What the file says of an uplink's path.
fn of_settings(path: &mut Path, uplink: &UplinkConfig, family: Family, nat_ports: (u16, u16)) {
    path.inbound = if uplink.is_inbound(family) { inbound::OPEN } else { 0 };
    (path.nat_lo, path.nat_hi) = nat_ports;
    path.translate = uplink.translation(family) as u8;
}

/// What the kernel says of an uplink's path; what is wrong with it beside its link.
fn of_kernel(
    path: &mut Path,
    uplink: &UplinkConfig,
    family: Family,
    link: Option<&Link>,
    kernel: &Kernel,
    unresolved: &mut Vec<(u32, IpAddr)>,
) -> u32 {
    let Some(link) = link else { return 0 };
    let pool = uplink.pool(family, link.index, kernel);
    for (to, from) in path.pool.iter_mut().zip(pool.iter().take(MAX_POOL)) {
        *to = address(*from);
    }
    path.pool_len = pool.len().min(MAX_POOL) as u8;
    let mut problems = 0;
    if path.translation() == Translate::Napt && pool.is_empty() {
        problems |= path_state::NO_ADDRESS;
    }
    let next_hop = uplink.next_hop_by(family, link.index, kernel);
    let known = next_hop.and_then(|next_hop| kernel.neighbours.get(&(link.index, next_hop)));
    path.next_hop = next_hop.map_or(Address::UNSPECIFIED, address);
    path.next_hop_mac = known.map_or(Mac::NONE, |known| Mac::new(known.mac));
    if known.is_none() {
        problems |= path_state::NO_NEXT_HOP;
    }
    if let Some(next_hop) = next_hop
        && link.running
        // Nobody answers a question that has no address of the link.
        && !kernel.waits_for(link.index, family)
        && !known.is_some_and(|known| known.fresh)
    {
        unresolved.push((link.index, next_hop));
    }
    problems
}

fn policies(half: &mut ControlHalf, site: &Site, overrides: &Overrides) {
    for (index, policy) in site.policies.iter().enumerate() {
        let slot = &mut half.policies[index];
        slot.name = Name::new(&policy.name);
        slot.selection = policy.selection as u8;
        slot.member_count = policy.members.len().min(slot.members.len()) as u8;
        slot.on_uplink_down = policy.on_uplink_down as u8;
        slot.idle_s = policy.idle_s;
        slot.home_per_second = policy.failback_rate.div_ceil(site.workers.max(1).into());
        for (to, from) in slot.members.iter_mut().zip(&policy.members) {
            let set = overrides.member_weights.get(&(index as u8, from.uplink));
            let weight = match (set, from.weight) {
                (Some(weight), _) => weight | Member::OVERRIDDEN,
                (None, Some(weight)) => weight,
                (None, None) => half.uplinks[usize::from(from.uplink)].weight,
            };
            *to = Member { uplink: from.uplink, tier: from.tier, weight };
        }
    }
}

fn rules(half: &mut ControlHalf, site: &Site, lan_ports: &[Option<u8>]) {
    half.rule_count = site.rules.len() as u32;
    let port_of = |uplink: &u8| half.uplinks.get(usize::from(*uplink)).map(|uplink| uplink.port);
    for (slot, rule) in half.rules.iter_mut().zip(&site.rules) {
        let in_ports = match (&rule.uplinks, rule.in_lan) {
            (Some(uplinks), _) => uplinks.iter().filter_map(port_of).collect(),
            (None, None) => IndexSet::ALL,
            (None, Some(lan)) => lan_ports.get(lan).copied().flatten().into_iter().collect(),
        };
        let in_ports = IndexSet::bits(in_ports);
        let range = |given: Option<(u16, u16)>| given.map_or([0, u16::MAX], |(lo, hi)| [lo, hi]);
        let net = |given: Option<Among>| {
            let net = given.and_then(|among| among.prefix());
            net.as_ref().map_or(Prefix::ANY, prefix)
        };
        let set = |given: Option<Among>| given.map_or(SetTest::ANY, |among| among.test());
        *slot = Rule {
            name: Name::new(&rule.name),
            in_ports,
            source: net(rule.source),
            destination: net(rule.destination),
            protocol: rule.protocol,
            dscp: rule.dscp.unwrap_or(0xff),
            policy: rule.verdict.policy().unwrap_or(site.default_policy),
            action: rule.verdict.action() as u8,
            source_ports: range(rule.source_ports),
            destination_ports: range(rule.destination_ports),
            from: rule.from() as u8,
            reserved1: [0; 25],
            source_set: set(rule.source),
            destination_set: set(rule.destination),
        };
    }
}

/// Marks the paths by which rules are asked about what comes in.
fn ruled(half: &mut ControlHalf, site: &Site) {
    for (number, uplink) in (0u8..).zip(&mut half.uplinks).take(site.uplinks.len()) {
        for family in Family::ALL {
            let path = uplink.path_mut(family);
            if site.is_ruled(number, family) && path.translation() != Translate::Napt {
                path.inbound |= inbound::RULED;
            }
        }
    }
}

/// Which sets there are; what they hold is in a region of its own.
fn sets(half: &mut ControlHalf, site: &Site) {
    half.sets.checksum = site.sets.checksum();
    for (slot, set) in half.sets.sets.iter_mut().zip(site.sets.named()) {
        *slot = Set { name: Name::new(&set.name), prefixes: set.prefixes };
    }
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::v4(address.octets()),
        IpAddr::V6(address) => Address(address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use weir_layout::control::RuleFrom;
    use weir_view::{NeighbourEntry, Route};

    use super::*;
    use crate::fixture::site;

    #[test]
    fn a_rule_about_uplinks_names_their_ports_and_marks_paths_that_leave_hosts_theirs() {
        let text = "[[lan]]\ninterface = \"lan0\"\n\
            [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\nipv6 = { translate = \"none\" }\n\
            [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\ntranslate = \"none\"\n\
            [[uplink]]\nname = \"c\"\ninterface = \"wan2\"\ntranslate = \"none\"\n\
            inbound = true\n\
            [[rule]]\nfrom = \"uplink\"\nuplinks = [\"a\", \"b\"]\naction = \"accept\"\n\
            [[rule]]\naction = \"drop\"\n";
        let site = weir_site::parse("weir.toml", text).unwrap();
        let link = |(index, name): (u32, &&str)| Link {
            index,
            name: (*name).into(),
            mac: [2, 0, 0, 0, 0, index as u8],
            running: true,
            queues: 1,
            mtu: 1500,
            ..Link::default()
        };
        let links = (1..).zip(&["lan0", "wan0", "wan1", "wan2"]).map(link).collect();
        let kernel = Kernel { links, ..Kernel::default() };
        let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        let ports = half.uplinks[..2].iter().fold(0, |ports, uplink| ports | 1 << uplink.port);
        let [first, second, ..] = half.rules;
        assert!(first.is_from(RuleFrom::Uplink) && second.is_from(RuleFrom::Lan));
        assert_eq!((first.in_ports, second.in_ports), (ports, u64::MAX));
        let inbound = |uplink: &Uplink| uplink.paths.map(|path| path.inbound);
        let marked: Vec<_> = half.uplinks[..3].iter().map(inbound).collect();
        assert_eq!(marked, [[0, inbound::RULED], [inbound::RULED; 2], [inbound::OPEN, 0]]);
    }

    #[test]
    fn an_uplink_without_its_interface_is_down_and_says_why() {
        let published =
            derive(&site(&["a"]), &Kernel::default(), &Overrides::default(), [&[]; 2], None);
        assert_eq!(published.problems[0], [path_state::NO_CARRIER]);
    }

    #[test]
    fn an_uplink_without_ethernet_header_is_down_alone_and_says_why() {
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            running: true,
            headerless: name == "wan1",
            ..Link::default()
        };
        let links = vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")];
        let kernel = Kernel { links, ..Kernel::default() };
        let found = derive(&site(&["a", "b"]), &kernel, &Overrides::default(), [&[]; 2], None);
        let down = found.problems[0].iter().map(|p| p & path_state::NO_DEVICE != 0);
        assert_eq!(down.collect::<Vec<_>>(), [false, true]);
        let device = found.half.devices.iter().find(|d| d.name.as_str() == "wan1").unwrap();
        assert_eq!((device.ifindex, device.fault), (0, DeviceFault::NoEthernet as u8));
        assert_eq!(found.half.uplinks[1].port, NONE);
    }

    #[test]
    fn an_uplink_on_a_network_of_the_lan_has_no_usable_address() {
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let kernel = Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")],
            addresses: vec![
                (1, "192.168.1.1/24".parse().unwrap()),
                (2, "192.168.1.7/24".parse().unwrap()),
                (3, "192.168.2.7/24".parse().unwrap()),
            ],
            ..Kernel::default()
        };
        let published = derive(&site(&["a", "b"]), &kernel, &Overrides::default(), [&[]; 2], None);
        let unusable = published.problems[0].iter().map(|p| p & path_state::NO_ADDRESS != 0);
        assert_eq!(unusable.collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_source_is_valid_behind_the_lan_port_whose_prefixes_hold_it() {
        let text = "[[lan]]\ninterface = \"lan0\"\n\
            [[lan]]\ninterface = \"lan1\"\nprefixes = [\"10.2.0.0/16\", \"10.3.0.0/16\"]\n\
            [[lan]]\ninterface = \"gone\"\nprefixes = [\"10.4.0.0/16\"]\n\
            [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let kernel = Kernel {
            links: vec![link(1, "lan0"), link(2, "lan1"), link(3, "wan0")],
            addresses: vec![(1, "10.1.0.1/16".parse().unwrap())],
            ..Kernel::default()
        };
        let site = weir_site::parse("weir.toml", text).unwrap();
        let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        let behind = |source| (0..=NONE).filter(|port| half.is_behind(*port, source)).collect();
        let ports: [Vec<u8>; 5] =
            [[10, 1, 0, 9], [10, 2, 0, 9], [10, 3, 0, 9], [10, 4, 0, 9], [10, 5, 0, 9]].map(behind);
        assert_eq!(ports, [vec![0], vec![1], vec![1], vec![NONE], vec![]]);
    }

    #[test]
    fn an_uplink_may_be_well_for_one_family_and_not_for_the_other() {
        let link =
            |index, name: &str| Link { index, name: name.into(), running: true, ..Link::default() };
        let next_hop = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
        let kernel = Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0")],
            addresses: vec![(2, "192.0.2.2/24".parse().unwrap())],
            neighbours: [((2, "192.0.2.1".parse().unwrap()), next_hop)].into(),
            ..Kernel::default()
        };
        let mut site = site(&["a"]);
        site.uplinks[0].next_hop = Some("192.0.2.1".parse().unwrap());
        let problems = |site: &Site| {
            derive(site, &kernel, &Overrides::default(), [&[]; 2], None).problems.concat()
        };
        assert_eq!(problems(&site), [0, path_state::NOT_CONFIGURED]);
        site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config::default());
        assert_eq!(problems(&site), [0, path_state::NO_NEXT_HOP]);
    }

    #[test]
    fn what_the_operator_wants_of_an_uplink_is_in_both_words() {
        let mut overrides = Overrides::default();
        overrides.hands.insert(0, Hand::Down);
        let found = derive(&site(&["a"]), &Kernel::default(), &overrides, [&[]; 2], None);
        assert!(found.problems.concat().iter().all(|word| word & path_state::ADMIN_DOWN != 0));
    }

    /// An uplink by `wan0` whose router of IPv6 has told of itself, and a LAN.
    fn with_ipv6() -> (Site, Kernel) {
        let mut site = site(&["a"]);
        site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config::default());
        let link =
            |index, name: &str| Link { index, name: name.into(), running: true, ..Link::default() };
        let gateway = "fe80::1".parse().ok();
        let default = Route { gateway, ..Route::by(2, ipnet::Ipv6Net::default()) };
        let addresses = [(1, "10.0.0.1/24"), (1, "2001:db8:7::1/64"), (2, "2001:db8:1::2/64")];
        let kernel = Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0")],
            addresses: addresses.map(|(index, net)| (index, net.parse().unwrap())).into(),
            routes6: std::sync::Arc::new(vec![default].into()),
            ..Kernel::default()
        };
        (site, kernel)
    }

    #[test]
    fn an_ipv6_path_leads_to_the_router_that_told_of_itself_and_translates_nothing() {
        let (site, mut kernel) = with_ipv6();
        let problems = |kernel: &Kernel| {
            let found = derive(&site, kernel, &Overrides::default(), [&[]; 2], None);
            (found.problems[Family::V6.index()][0], found.unresolved)
        };
        let next_hop: IpAddr = "fe80::1".parse().unwrap();
        assert_eq!(problems(&kernel), (path_state::NO_NEXT_HOP, vec![(2, next_hop)]));
        let known = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
        kernel.neighbours.insert((2, next_hop), known);
        assert_eq!(problems(&kernel), (0, vec![]));
        let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        let path = half.uplinks[0].path(Family::V6);
        assert_eq!(path.translate, Translate::None as u8);
        assert_eq!((path.next_hop, path.next_hop_mac), (address(next_hop), Mac::new([4; 6])));
        assert_eq!(path.addresses(), [address("2001:db8:1::2".parse().unwrap())]);
    }

    #[test]
    fn ipv6_networks_of_lans_are_published_where_an_uplink_has_ipv6() {
        let (mut site, kernel) = with_ipv6();
        let nets = |site: &Site| {
            let half = derive(site, &kernel, &Overrides::default(), [&[]; 2], None).half;
            half.lan_prefixes().iter().map(|net| (net.family, net.length)).collect::<Vec<_>>()
        };
        assert_eq!(nets(&site), [(4, 24), (6, 64)]);
        site.uplinks[0].ipv6 = None;
        assert_eq!(nets(&site), [(4, 24)]);
    }

    #[test]
    fn ports_tell_whether_they_have_ipv6() {
        let (mut site, mut kernel) = with_ipv6();
        let have = |site: &Site, kernel: &Kernel| {
            let half = derive(site, kernel, &Overrides::default(), [&[]; 2], None).half;
            let of = |role: PortRole| {
                let mut ports = half.ports.iter().filter(move |port| port.role() == Some(role));
                ports.any(|port| port.ipv6 == 1)
            };
            [of(PortRole::Lan), of(PortRole::Uplink)]
        };
        assert_eq!(have(&site, &kernel), [true, true]);
        kernel.addresses.retain(|(index, net)| *index == 2 || matches!(net, IpNet::V4(_)));
        assert_eq!(have(&site, &kernel), [false, true], "the LAN has no network of it");
        site.uplinks[0].ipv6 = None;
        assert_eq!(have(&site, &kernel), [false, false]);
    }

    #[test]
    fn an_uplink_on_an_ipv6_network_of_the_lan_has_no_usable_ipv6_address() {
        let (site, mut kernel) = with_ipv6();
        kernel.addresses.push((2, "2001:db8:7::2/64".parse().unwrap()));
        let found = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None);
        let clashes = found.problems.map(|of| of[0] & path_state::NO_ADDRESS != 0);
        assert!(clashes[Family::V6.index()]);
    }

    #[test]
    fn an_ipv6_path_whose_targets_can_be_asked_from_no_address_has_none() {
        let (mut site, mut kernel) = with_ipv6();
        let problem = |site: &Site, kernel: &Kernel| {
            let found = derive(site, kernel, &Overrides::default(), [&[]; 2], None);
            found.problems.map(|of| of[0] & path_state::NO_ADDRESS != 0)[Family::V6.index()]
        };
        kernel.addresses.retain(|(_, net)| matches!(net, IpNet::V4(_)));
        assert!(!problem(&site, &kernel), "its next hop is asked from an address of the link");
        let kind = weir_site::health::Probe::Icmp { address: "2001:db8:9::1".parse().unwrap() };
        let name = "a".into();
        site.uplinks[0].health.targets.push(weir_site::health::Target { name, kind });
        assert!(problem(&site, &kernel));
        let inner = (1, "2001:2:7::1/64".parse().unwrap());
        kernel.addresses.push(inner);
        assert!(!problem(&site, &kernel), "from one of the LAN's prefix");
        *kernel.addresses.last_mut().unwrap() = (2, "2001:db8:1::2/64".parse().unwrap());
        kernel.unfit.insert((2, "2001:db8:1::2".parse().unwrap()));
        assert!(!problem(&site, &kernel), "soon from its own, which is tentative");
    }
}
