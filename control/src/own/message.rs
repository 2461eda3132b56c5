//! Weir's rules and routes as messages of netlink.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::RouteMessageBuilder;

use super::{Default4, MAIN, NOWHERE, PROTOCOL, Rule, Selector};
use crate::rules::LOCAL;

impl Rule {
    /// With all that it is to have.
    pub(super) fn new_message(&self) -> RuleMessage {
        let mut message = self.message();
        if self.table == MAIN {
            let length = self.selector.suppressed();
            message.attributes.push(RuleAttribute::SuppressPrefixLen(length));
        }
        message
    }

    /// With what tells it from others; weir's of any version are told so.
    pub(super) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.action =
            if self.table == NOWHERE { RuleAction::Unreachable } else { RuleAction::ToTable };
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        ];
        if self.table != NOWHERE {
            message.attributes.push(RuleAttribute::Table(self.table));
        }
        if self.table == MAIN {
            message.header.table = RouteHeader::RT_TABLE_MAIN;
        }
        match &self.selector {
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
}

impl Default4 {
    pub(super) fn message(&self) -> RouteMessage {
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(self.table)
            .gateway(self.next_hop)
            .output_interface(self.interface)
            .protocol(RouteProtocol::from(PROTOCOL));
        if let Some(source) = self.source {
            builder = builder.pref_source(source);
        }
        let mut message = builder.build();
        // The next hop may be outside the interface's own prefixes, as with /32 addresses.
        message.header.flags |= RouteFlags::Onlink;
        message
    }
}

/// The rule in a message, if it is weir's.
pub fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        v6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        selector: Selector::All,
        table: message.header.table.into(),
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
