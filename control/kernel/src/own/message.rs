//! Weir's rules and routes as messages of netlink.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::RouteMessageBuilder;

use weir_view::own::{Default4, MAIN, NOWHERE, PROTOCOL, Rule, Selector};
use weir_view::rule::LOCAL;

/// The message that adds or removes a rule.
pub fn of_rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
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
        Selector::From(name) => message.attributes.push(RuleAttribute::Iifname(name.clone())),
        Selector::Device(name) => message.attributes.push(RuleAttribute::Oifname(name.clone())),
        Selector::Mark(mark) => message.attributes.push(RuleAttribute::FwMark(*mark)),
        Selector::Marked(mark, address) => {
            message.header.src_len = 32;
            message.attributes.push(RuleAttribute::FwMark(*mark));
            message.attributes.push(RuleAttribute::Source(IpAddr::V4(*address)));
        }
        Selector::Source(address) => {
            message.header.src_len = 32;
            message.attributes.push(RuleAttribute::Source(IpAddr::V4(*address)));
        }
    }
    message
}

/// The message that adds or removes a route.
pub fn of_route(route: &Default4) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .table_id(route.table)
        .gateway(route.next_hop)
        .output_interface(route.interface)
        .protocol(RouteProtocol::from(PROTOCOL));
    if let Some(source) = route.source {
        builder = builder.pref_source(source);
    }
    let mut message = builder.build();
    // The next hop may be outside the interface's own prefixes, as with /32 addresses.
    message.header.flags |= RouteFlags::Onlink;
    message
}

/// The rule in a message, if it is weir's.
pub fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        v6: message.header.family == AddressFamily::Inet6,
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
            RuleAttribute::Source(IpAddr::V4(address)) => source = Some(*address),
            // -1 where there is none (`fib_nl_fill_rule`, net/core/fib_rules.c).
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppressed = Some(*length).filter(|length| *length != u32::MAX);
            }
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    rule.selector = match (mark, source) {
        (Some(mark), Some(source)) => Selector::Marked(mark, source),
        (Some(mark), None) => Selector::Mark(mark),
        (None, Some(source)) => Selector::Source(source),
        (None, None) => rule.selector,
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
pub fn route_of(message: &RouteMessage) -> Option<Default4> {
    let mut table = u32::from(message.header.table);
    let (mut next_hop, mut interface, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => next_hop = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let ours = u8::from(message.header.protocol) == PROTOCOL;
    ours.then_some(Default4 { table, next_hop: next_hop?, interface: interface?, source })
}
