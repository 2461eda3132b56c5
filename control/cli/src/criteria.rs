//! What a rule asks of packets, for people.

use std::net::IpAddr;

use weir_layout::control::{Address, ControlHalf, Port, Prefix, Rule, RuleFrom, SetTest, Sets};
use weir_layout::protocol;

/// By port, the name of its uplink, or of its interface: the device's, and the VLAN id if it has one.
pub fn port_names(half: &ControlHalf) -> Vec<String> {
    let name = |port: &Port| {
        let uplink = half.uplinks.get(usize::from(port.uplink)).filter(|_| port.is_uplink());
        if let Some(uplink) = uplink {
            return uplink.name.as_str().to_owned();
        }
        let device = half.devices.get(usize::from(port.device));
        let device = device.map_or("?", |device| device.name.as_str());
        if port.vlan == 0 { device.to_owned() } else { format!("{device}.{}", port.vlan) }
    };
    half.ports.iter().map(name).collect()
}

/// A prefix of either family.
pub fn prefix_name(p: &Prefix) -> String {
    let address: IpAddr = match p.family {
        6 => p.address.into(),
        _ => Address(p.address).to_v4().into(),
    };
    format!("{address}/{}", p.length)
}

/// The addresses that a rule asks for, if it does; what is left of a set's family is said by the set.
fn addresses(prefix: &Prefix, set: SetTest, sets: &Sets) -> Option<String> {
    match set.number() {
        Some(number) => Some(set_name(sets, number, set.is_negated())),
        None => (prefix.family != 0).then(|| prefix_name(prefix)),
    }
}

/// A set as the file names it, or what it does not hold.
pub fn set_name(sets: &Sets, number: u8, negated: bool) -> String {
    format!("{}@{}", if negated { "!" } else { "" }, sets.name(number))
}

/// What a rule asks of packets; `ports` has the name of each port.
pub fn criteria(rule: &Rule, ports: &[String], sets: &Sets) -> String {
    let mut words = Vec::new();
    let is_outside = rule.is_from(RuleFrom::Uplink);
    if is_outside || rule.in_ports != u64::MAX {
        let from = ports.iter().enumerate().filter(|(port, _)| rule.in_ports >> port & 1 == 1);
        let names: Vec<_> = from.map(|(_, name)| name.as_str()).collect();
        let names = if names.is_empty() { "nowhere".into() } else { names.join(", ") };
        words.push(format!("from {} {names}", if is_outside { "uplink" } else { "interface" }));
    }
    if rule.protocol != 0 {
        words.push(protocol_name(rule.protocol));
    }
    if let Some(source) = addresses(&rule.source, rule.source_set, sets) {
        words.push(format!("from {source}"));
    }
    if rule.source_ports != [0, u16::MAX] {
        words.push(format!("ports {}-{}", rule.source_ports[0], rule.source_ports[1]));
    }
    if let Some(destination) = addresses(&rule.destination, rule.destination_set, sets) {
        words.push(format!("to {destination}"));
    }
    if rule.destination_ports != [0, u16::MAX] {
        words.push(format!("to ports {}-{}", rule.destination_ports[0], rule.destination_ports[1]));
    }
    if rule.dscp != 0xff {
        words.push(format!("dscp {}", rule.dscp));
    }
    if words.is_empty() { "everything".into() } else { words.join(" ") }
}

/// A protocol of IP by its name, or its number.
pub fn protocol_name(number: u8) -> String {
    protocol::name(number).map_or_else(|| number.to_string(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_put_in_words() {
        let mut rule = weir_shm::control::empty_half().rules[0];
        rule.in_ports = u64::MAX;
        (rule.dscp, rule.source_ports, rule.destination_ports) = (0xff, [0, u16::MAX], [443, 443]);
        let ports = ["wan0".to_owned(), "lan0".to_owned(), "eth0.7".to_owned()];
        let mut sets = weir_shm::control::empty_half().sets;
        sets.sets[1].name = weir_layout::control::Name::new("office");
        let criteria = |rule: &Rule| criteria(rule, &ports, &sets);
        assert_eq!(criteria(&rule), "to ports 443-443");
        rule.destination_ports = [0, u16::MAX];
        assert_eq!(criteria(&rule), "everything");
        rule.in_ports = 0b110;
        assert_eq!(criteria(&rule), "from interface lan0, eth0.7");
        (rule.in_ports, rule.from) = (0b1, RuleFrom::Uplink as u8);
        assert_eq!(criteria(&rule), "from uplink wan0");
        (rule.in_ports, rule.from) = (u64::MAX, RuleFrom::Lan as u8);
        rule.source = Prefix::v4([10, 0, 0, 0], 8);
        rule.protocol = 17;
        assert_eq!(criteria(&rule), "udp from 10.0.0.0/8");
        let net = "2001:db8:1::".parse::<std::net::Ipv6Addr>().unwrap();
        let net = Prefix { address: net.octets(), family: 6, length: 48, ..Prefix::ANY };
        (rule.source, rule.destination) = (Prefix::ANY, net);
        assert_eq!(criteria(&rule), "udp to 2001:db8:1::/48");
        rule.protocol = 58;
        assert_eq!(criteria(&rule), "icmpv6 to 2001:db8:1::/48");
        rule.protocol = 47;
        assert_eq!(criteria(&rule), "gre to 2001:db8:1::/48");
        rule.protocol = 136;
        assert_eq!(criteria(&rule), "136 to 2001:db8:1::/48");
        rule.protocol = 58;
        rule.source_set = SetTest::new(1, false);
        rule.destination_set = SetTest::new(1, true);
        assert_eq!(criteria(&rule), "icmpv6 from @office to !@office");
    }
}
