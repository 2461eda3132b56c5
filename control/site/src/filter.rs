//! `[[rule]]`: which packets begin flows, and by which policy.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;
use weir_layout::control::RuleAction;

use super::RuleConfig;
use super::checker::Checker;
use super::schema::{self, File, Protocol, Rule};

/// What becomes of packets that would begin a flow and match a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This policy steers them, by its index.
    Policy(u8),
    /// They are dropped.
    Drop,
    /// They are dropped, and their sender is told.
    Reject,
}

impl Verdict {
    /// The policy, if one steers them.
    pub fn policy(self) -> Option<u8> {
        match self {
            Self::Policy(policy) => Some(policy),
            Self::Drop | Self::Reject => None,
        }
    }

    /// What shared memory says.
    pub fn action(self) -> RuleAction {
        match self {
            Self::Policy(_) => RuleAction::Policy,
            Self::Drop => RuleAction::Drop,
            Self::Reject => RuleAction::Reject,
        }
    }
}

/// The rules; `policies` are the indices of the policies' names.
pub fn rules(
    c: &mut Checker<'_>,
    file: &File,
    policies: &HashMap<String, usize>,
) -> Vec<RuleConfig> {
    let interfaces = file.lan.iter().map(|lan| lan.get_ref().interface.get_ref().clone());
    let lans: HashMap<_, _> = interfaces.zip(0..).collect();
    let mut rules = Vec::new();
    for (index, rule) in file.rule.iter().enumerate() {
        let r = rule.get_ref();
        if let Some(name) = &r.name {
            c.name("rule", name);
        }
        let protocol = protocol(c, r);
        let (source_ports, destination_ports) = ports(c, rule, protocol);
        let (source, destination) = prefixes(c, rule, file.has_ipv6());
        let name = r.name.as_ref().map(|name| name.get_ref().clone());
        rules.push(RuleConfig {
            name: name.unwrap_or_else(|| format!("rule-{}", index + 1)),
            in_lan: r.in_interface.as_ref().map(|i| c.find("LAN interface", i, &lans)),
            source,
            destination,
            protocol,
            source_ports,
            destination_ports,
            dscp: r.dscp.is_some().then(|| c.number("dscp", &r.dscp, 0..64, 0) as u8),
            verdict: verdict(c, rule, policies),
        });
    }
    rules
}

/// What the rule says, of an action and a policy that go together.
fn verdict(
    c: &mut Checker<'_>,
    rule: &Spanned<Rule>,
    policies: &HashMap<String, usize>,
) -> Verdict {
    let r = rule.get_ref();
    let denies = match r.action {
        schema::RuleAction::Policy => None,
        schema::RuleAction::Drop => Some(Verdict::Drop),
        schema::RuleAction::Reject => Some(Verdict::Reject),
    };
    match (denies, &r.policy) {
        (None, Some(policy)) => Verdict::Policy(c.find("policy", policy, policies) as u8),
        (None, None) => {
            c.refuse(
                rule.span(),
                "the rule does not say what becomes of what matches",
                "name a `policy`, or say action = \"drop\" or \"reject\"",
            );
            Verdict::Policy(0)
        }
        (Some(denies), None) => denies,
        (Some(denies), Some(policy)) => {
            c.refuse(
                policy.span(),
                "what is dropped or rejected has no policy",
                "remove `policy`, or the action",
            );
            denies
        }
    }
}

/// The protocol's number; 0 for any, and after an error.
fn protocol(c: &mut Checker<'_>, rule: &Rule) -> u8 {
    let Some(given) = &rule.protocol else { return 0 };
    match given.get_ref() {
        Protocol::Number(number) => *number,
        Protocol::Name(name) => match name.as_str() {
            "tcp" => 6,
            "udp" => 17,
            "icmp" => 1,
            "icmpv6" => 58,
            other => {
                c.refuse(
                    given.span(),
                    format!("protocol \"{other}\" is not known"),
                    "use \"tcp\", \"udp\", \"icmp\" (of both families), \"icmpv6\" or a number \
                     without quotes, such as 50",
                );
                0
            }
        },
    }
}

type Ports = Option<(u16, u16)>;

/// Source and destination ports, of a protocol that has them.
fn ports(c: &mut Checker<'_>, rule: &Spanned<Rule>, protocol: u8) -> (Ports, Ports) {
    let r = rule.get_ref();
    let source = r.source_ports.as_ref().and_then(|p| c.range(p));
    let destination = r.destination_ports.as_ref().and_then(|p| c.range(p));
    if (source.is_some() || destination.is_some()) && !matches!(protocol, 0 | 6 | 17) {
        c.refuse(
            rule.span(),
            format!("protocol {protocol} has no ports"),
            "remove the ports, or say \"tcp\" or \"udp\"",
        );
    }
    (source, destination)
}

/// Source and destination, of one family that an uplink has.
fn prefixes(
    c: &mut Checker<'_>,
    rule: &Spanned<Rule>,
    has_ipv6: bool,
) -> (Option<IpNet>, Option<IpNet>) {
    let r = rule.get_ref();
    let (source, destination) = (r.source.as_ref(), r.destination.as_ref());
    let (source, destination) = (source.map(|p| c.prefix(p)), destination.map(|p| c.prefix(p)));
    let is_v6 = |prefix: &IpNet| matches!(prefix, IpNet::V6(_));
    if let (Some(IpNet::V4(v4)), Some(IpNet::V6(v6))) | (Some(IpNet::V6(v6)), Some(IpNet::V4(v4))) =
        (source, destination)
    {
        let message = format!("no packet has an address in {v4} and one in {v6}");
        c.refuse(rule.span(), message, "write a rule for each family");
    } else if let Some(v6) = [source, destination].into_iter().flatten().find(is_v6)
        && !has_ipv6
    {
        let message = format!("prefix {v6} is of IPv6, and no uplink is");
        c.refuse(rule.span(), message, "give an uplink `ipv6`, or remove the rule");
    }
    (source, destination)
}
