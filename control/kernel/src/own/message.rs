//! Weir's rules and routes as messages of netlink.

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use weir_layout::Family;
use weir_view::own::{DefaultRoute, MAIN, NOWHERE, PROTOCOL, Rule, Selector};
use weir_view::rule::LOCAL;

use crate::message::ip;

/// `FIB_RULE_FIND_SADDR` (linux/fib_rules.h).
const FIND_SOURCE: RuleFlags = RuleFlags::from_bits_retain(0x1_0000);

const fn af(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Bits of an address.
const fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The message that adds or removes a rule.
pub fn of_rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = af(rule.family);
    message.header.action =
        if rule.table == NOWHERE { RuleAction::Unreachable } else { RuleAction::ToTable };
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    if rule.table != NOWHERE {
        message.attributes.push(RuleAttribute::Table(rule.table));
    }
    if rule.table == MAIN {
        message.header.table = RouteHeader::RT_TABLE_MAIN;
    }
    message.attributes.extend(rule.suppressed.map(RuleAttribute::SuppressPrefixLen));
    match &rule.selector {
        Selector::All => {}
        Selector::FromPrefix(name, net) => {
            message.header.src_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Iifname(name.clone()));
            message.attributes.push(RuleAttribute::Source(net.network()));
        }
        Selector::From(name) => message.attributes.push(RuleAttribute::Iifname(name.clone())),
        Selector::Device(name) => message.attributes.push(RuleAttribute::Oifname(name.clone())),
        Selector::Mark(mark) => message.attributes.push(RuleAttribute::FwMark(*mark)),
        Selector::Marked(mark, address) => {
            if rule.family == Family::V6 {
                message.header.flags |= FIND_SOURCE;
            }
            message.header.src_len = bits(rule.family);
            message.attributes.push(RuleAttribute::FwMark(*mark));
            message.attributes.push(RuleAttribute::Source(*address));
        }
        Selector::Source(address) => {
            message.header.src_len = bits(rule.family);
            message.attributes.push(RuleAttribute::Source(*address));
        }
    }
    message
}

/// The message that adds or removes a route.
pub fn of_route(route: &DefaultRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = af(route.family());
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    // The next hop may be outside the interface's own prefixes, as with /32 addresses.
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![
        RouteAttribute::Table(route.table),
        RouteAttribute::Gateway(route.next_hop.into()),
        RouteAttribute::Oif(route.interface),
    ];
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

/// The rule in a message, if it is weir's.
pub fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        family: if message.header.family == AddressFamily::Inet6 { Family::V6 } else { Family::V4 },
        priority: 0,
        selector: Selector::All,
        table: message.header.table.into(),
        suppressed: None,
    };
    let (mut ours, mut mark, mut source) = (false, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::Iifname(name) => rule.selector = Selector::From(name.clone()),
            RuleAttribute::Oifname(name) => rule.selector = Selector::Device(name.clone()),
            RuleAttribute::Source(address) => source = Some(*address),
            // -1 where there is none (`fib_nl_fill_rule`, net/core/fib_rules.c).
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppressed = Some(*length).filter(|length| *length != u32::MAX);
            }
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    rule.selector = match (mark, source, rule.selector) {
        (Some(mark), Some(source), _) => Selector::Marked(mark, source),
        (Some(mark), None, _) => Selector::Mark(mark),
        (None, Some(source), Selector::From(name)) => {
            Selector::FromPrefix(name, IpNet::new(source, message.header.src_len).ok()?)
        }
        (None, Some(source), _) => Selector::Source(source),
        (None, None, selector) => selector,
    };
    ours.then_some(rule)
}

/// The priority of a rule that is neither weir's nor the local table's.
pub fn priority_of_another(message: &RuleMessage) -> Option<u32> {
    let (mut priority, mut table) = (0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL => return None,
            _ => {}
        }
    }
    (table != LOCAL).then_some(priority)
}

/// The route in a message, if it is weir's.
pub fn route_of(message: &RouteMessage) -> Option<DefaultRoute> {
    let mut table = u32::from(message.header.table);
    let (mut next_hop, mut interface, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Gateway(address) => next_hop = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let ours = u8::from(message.header.protocol) == PROTOCOL;
    ours.then_some(DefaultRoute { table, next_hop: next_hop?, interface: interface?, source })
}
