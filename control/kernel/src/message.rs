//! What the kernel's messages say (`rtnetlink.h`, `fib_rules.h`), as plain values.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RoutePreference, RouteProtocol,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use weir_layout::Family;
use weir_view::own::PROTOCOL;
use weir_view::rule::{Action, Rule};
use weir_view::{Link, NeighbourEntry, Net, Preference, Route, RouteKind, is_link_local};

use crate::peers;

/// A neighbour; without an entry when its hardware address is not known.
pub fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Option<NeighbourEntry>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                address = Some((*a).into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                address = Some((*a).into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = message.header.state;
    let lost =
        matches!(state, NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None);
    let (stale, reachable) = (NeighbourState::Stale, NeighbourState::Reachable);
    let entry = mac.filter(|_| !lost).map(|mac| NeighbourEntry {
        mac,
        fresh: state != stale,
        trusted: state == reachable,
    });
    Some(((message.header.ifindex, address?), entry))
}

/// An interface; none without a name.
pub fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::LowerUp | LinkFlags::Up),
        vlan: None,
        macvlan: None,
        master: None,
        headerless: message.header.link_layer_type != LinkLayerType::Ether,
        queues: 1,
        xdp_transmit: false,
        shortage: None,
        strips_tags: false,
        bridge: false,
        tunnels: Vec::new(),
        forwards: [false; Family::COUNT],
    };
    let (mut parent, mut id, mut is_macvlan) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().unwrap_or([0; 6])
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::AfSpecUnspec(families) => link.forwards = forwards(families),
            LinkAttribute::LinkInfo(infos) => {
                link.tunnels = peers::of_link(infos);
                is_macvlan = infos.contains(&LinkInfo::Kind(InfoKind::MacVlan));
                for info in infos {
                    link.bridge |= matches!(info, LinkInfo::Kind(InfoKind::Bridge));
                    if let LinkInfo::Data(InfoData::Vlan(data)) = info {
                        id = data.iter().find_map(|d| match d {
                            InfoVlan::Id(id) => Some(*id),
                            _ => None,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    link.vlan = parent.zip(id);
    link.macvlan = parent.filter(|_| is_macvlan);
    link.headerless |= link.mac == [0; 6];
    (!link.name.is_empty()).then_some(link)
}

/// By [`Family`], whether the kernel forwards what comes in by an interface with these settings.
fn forwards(families: &[AfSpecUnspec]) -> [bool; Family::COUNT] {
    let mut forwards = [false; Family::COUNT];
    for family in families {
        match family {
            AfSpecUnspec::Inet(settings) => {
                forwards[Family::V4.index()] |= settings.iter().any(
                    |it| matches!(it, AfSpecInet::DevConf(settings) if settings.forwarding != 0),
                );
            }
            AfSpecUnspec::Inet6(settings) => {
                forwards[Family::V6.index()] |= settings.iter().any(
                    |it| matches!(it, AfSpecInet6::DevConf(settings) if settings.forwarding != 0),
                );
            }
            _ => {}
        }
    }
    forwards
}

/// Interface and address; none for an IPv6 address of the link alone, which every interface has.
pub fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link the other attribute has the far end's (linux/if_addr.h).
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            _ => {}
        }
    }
    let address = local.or(address)?;
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    (!is_of_a_link(address)).then_some((message.header.index, net))
}

/// Is it an IPv6 address that means something on one link alone?
fn is_of_a_link(address: IpAddr) -> bool {
    address.is_ipv6() && (is_link_local(address) || address.is_multicast())
}

/// What an address is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Packets may be sent from it to everywhere.
    Fit,
    /// So they may, but no new connection should be.
    Deprecated,
    /// They may not.
    Unfit,
}

/// What an address is good for.
pub fn fitness(message: &AddressMessage) -> Fitness {
    let mut unfit = AddressFlags::Tentative | AddressFlags::Dadfailed;
    if message.header.family == AddressFamily::Inet6 {
        // `IFA_F_TEMPORARY`, which is another name of `IFA_F_SECONDARY`.
        unfit |= AddressFlags::Secondary;
    }
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let has = |some| flags.is_some_and(|flags| flags.intersects(some));
    if message.header.scope != AddressScope::Universe || has(unfit) {
        Fitness::Unfit
    } else if has(AddressFlags::Deprecated) {
        Fitness::Deprecated
    } else {
        Fitness::Fit
    }
}

/// Has the kernel made the address of a router advertisement that it took (`addrconf_prefix_rcv`,
/// net/ipv6/addrconf.c)? Before Linux 5.18 an address does not say who made it, but such a one may
/// have temporary ones beside it.
pub fn is_advertised(message: &AddressMessage) -> bool {
    let made = AddressFlags::Managetempaddr | AddressFlags::Secondary;
    let says = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Flags(flags) => flags.intersects(made),
        AddressAttribute::Protocol(by) => *by == AddressProtocol::RouterAnnouncement,
        _ => false,
    };
    message.header.family == AddressFamily::Inet6 && message.attributes.iter().any(says)
}

/// Is an event about an IPv6 address or route of one link alone? Nothing is decided by those.
pub fn is_of_a_link_alone(message: &RouteNetlinkMessage) -> bool {
    use RouteNetlinkMessage::{DelAddress, DelRoute, NewAddress, NewRoute};
    match message {
        NewAddress(message) | DelAddress(message) => {
            message.attributes.iter().any(|attribute| match attribute {
                AddressAttribute::Address(address) => is_of_a_link(*address),
                _ => false,
            })
        }
        NewRoute(message) | DelRoute(message) => {
            message.attributes.iter().any(|attribute| match attribute {
                RouteAttribute::Destination(to) => ip(to).is_some_and(is_of_a_link),
                _ => false,
            })
        }
        _ => false,
    }
}

/// The address, if it is one of IP.
pub fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The table that a route is in.
pub fn table_of(message: &RouteMessage) -> u32 {
    let id = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(id) => Some(*id),
        _ => None,
    });
    id.unwrap_or(message.header.table.into())
}

/// The routes of a message: one for each next hop of a multipath route. What the kernel has learned
/// of one host (`RTM_F_CLONED`: a path MTU, a redirect) is no route, nor is what leads to addresses of
/// one link, which each interface has of its own and which nothing forwards.
pub fn routes_of<N: Net>(message: &RouteMessage) -> Vec<Route<N>> {
    let (mut destination, mut metric, mut source) = (None, 0, None);
    let mut preference = Preference::Medium;
    let mut hops = vec![hop(&message.attributes)];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address).and_then(N::address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Preference(RoutePreference::Low) => preference = Preference::Low,
            RouteAttribute::Preference(RoutePreference::High) => preference = Preference::High,
            RouteAttribute::MultiPath(several) => {
                hops = several
                    .iter()
                    .map(|one| (Some(one.interface_index), hop(&one.attributes).1))
                    .collect();
            }
            _ => {}
        }
    }
    let length = message.header.destination_prefix_length;
    let destination = match destination {
        None => Some(N::default()),
        Some(address) => IpNet::new(address, length).ok().and_then(N::of),
    };
    let Some(destination) = destination else { return Vec::new() };
    let of_a_link = is_of_a_link(destination.into().addr());
    if of_a_link || message.header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let advertised = message.header.protocol == RouteProtocol::Ra;
    let nowhere = Route { metric, preference, source, advertised, ..Route::to(destination) };
    match message.header.kind {
        RouteType::Unicast => hops
            .into_iter()
            .filter_map(|(interface, gateway)| {
                let (interface, gateway) = (interface?, gateway.and_then(N::address));
                Some(Route { kind: RouteKind::Unicast, gateway, interface, ..nowhere })
            })
            .collect(),
        RouteType::Throw => vec![Route { kind: RouteKind::Throw, ..nowhere }],
        _ => vec![nowhere],
    }
}

/// Interface and gateway.
fn hop(attributes: &[RouteAttribute]) -> (Option<u32>, Option<IpAddr>) {
    let interface = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    });
    (interface, gateway)
}

/// The rule in a message; none if it is weir's, or holds for no packet that comes in by a LAN:
/// those of other families, of devices that sockets are bound to, and of VRFs.
pub fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    if header.family != AddressFamily::Inet {
        return None;
    }
    let mut rule = Rule {
        priority: 0,
        action: Action::Goto,
        suppress: None,
        interface: None,
        source: Ipv4Net::default(),
        destination: Ipv4Net::default(),
        asks: (header.tos != 0).then_some("a type of service"),
    };
    let mut table = u32::from(header.table);
    let net = |address: &std::net::IpAddr, length| match address {
        std::net::IpAddr::V4(address) => Ipv4Net::new(*address, length).ok(),
        std::net::IpAddr::V6(_) => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::SuppressPrefixLen(length) => rule.suppress = (*length).try_into().ok(),
            RuleAttribute::Iifname(name) => rule.interface = Some(name.clone()),
            RuleAttribute::Source(address) => rule.source = net(address, header.src_len)?,
            RuleAttribute::Destination(to) => rule.destination = net(to, header.dst_len)?,
            RuleAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL => {
                return None;
            }
            RuleAttribute::Oifname(_) | RuleAttribute::L3MDev(true) => return None,
            RuleAttribute::FwMark(_) => rule.asks = Some("a mark"),
            RuleAttribute::UidRange(_) => rule.asks = Some("a user"),
            RuleAttribute::TunId(_) => rule.asks = Some("a tunnel"),
            RuleAttribute::SuppressIfGroup(_) => rule.asks = Some("a group of devices"),
            RuleAttribute::IpProtocol(_) => rule.asks = Some("a protocol"),
            RuleAttribute::SourcePortRange(_) | RuleAttribute::DestinationPortRange(_) => {
                rule.asks = Some("ports");
            }
            RuleAttribute::Other(_) => rule.asks = Some("what weir does not know"),
            _ => {}
        }
    }
    if header.flags.contains(RuleFlags::Invert) {
        rule.asks = Some("the contrary of what it names");
    }
    rule.action = match header.action {
        RuleAction::ToTable => Action::Table(table),
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => Action::Refuse,
        RuleAction::Goto => Action::Goto,
        // It does nothing.
        _ => return None,
    };
    Some(rule)
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv6Net;
    use netlink_packet_route::link::Inet6DevConf;

    use super::*;

    /// From a message, because not every kernel that runs the tests has VLAN devices.
    #[test]
    fn a_vlan_device_leads_to_its_parent() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![
            LinkAttribute::IfName("wan0.10".into()),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(10)])),
            ]),
        ];
        assert_eq!(link(&message).unwrap().vlan, Some((3, 10)));
    }

    #[test]
    fn whether_an_interface_forwards_is_a_setting_of_each_family() {
        let mut settings = Inet6DevConf::default();
        let with = |settings: Inet6DevConf| {
            let mut message = LinkMessage::default();
            let of_ipv6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(settings)]);
            let all = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![]), of_ipv6]);
            message.attributes = vec![LinkAttribute::IfName("wan0".into()), all];
            link(&message).unwrap().forwards
        };
        assert_eq!(with(settings), [false, false]);
        settings.forwarding = 1;
        assert_eq!(with(settings), [false, true]);
    }

    #[test]
    fn a_veth_device_has_a_peer_but_no_parent() {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName("wan0".into()), LinkAttribute::Link(3)];
        assert_eq!(link(&message).unwrap().vlan, None);
    }

    #[test]
    fn what_was_learned_of_one_host_is_no_route() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 32;
        let host = RouteAddress::Inet([192, 0, 2, 9].into());
        message.attributes = vec![RouteAttribute::Destination(host), RouteAttribute::Oif(2)];
        assert_eq!(routes_of::<Ipv4Net>(&message).len(), 1);
        message.header.flags = RouteFlags::Cloned;
        assert!(routes_of::<Ipv4Net>(&message).is_empty());
    }

    #[test]
    fn a_router_says_whether_others_are_to_be_preferred() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        let mut preference = |of: Option<RoutePreference>| {
            message.attributes = vec![RouteAttribute::Oif(2)];
            message.attributes.extend(of.map(RouteAttribute::Preference));
            routes_of::<Ipv6Net>(&message)[0].preference
        };
        for (said, means) in [
            (None, Preference::Medium),
            (Some(RoutePreference::Medium), Preference::Medium),
            (Some(RoutePreference::Low), Preference::Low),
            (Some(RoutePreference::High), Preference::High),
            (Some(RoutePreference::Invalid), Preference::Medium),
        ] {
            assert_eq!(preference(said), means);
        }
    }

    #[test]
    fn what_leads_to_the_neighbours_of_a_link_is_no_route() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 64;
        let mut to = |net: &str| {
            let net = RouteAddress::Inet6(net.parse().unwrap());
            message.attributes = vec![RouteAttribute::Destination(net), RouteAttribute::Oif(2)];
            routes_of::<Ipv6Net>(&message).len()
        };
        assert_eq!(to("2001:db8::"), 1);
        assert_eq!(to("fe80::"), 0);
    }

    #[test]
    fn a_temporary_address_is_no_source_for_long() {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        assert_eq!(fitness(&message), Fitness::Fit);
        message.attributes = vec![AddressAttribute::Flags(AddressFlags::Secondary)];
        assert_eq!(fitness(&message), Fitness::Unfit);
        message.header.family = AddressFamily::Inet;
        assert_eq!(fitness(&message), Fitness::Fit, "one more of the same network");
    }
}
