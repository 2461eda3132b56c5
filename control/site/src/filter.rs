//! `[[rule]]`: which packets begin flows, from LANs by which policy.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;
use weir_layout::control::{RuleAction, RuleFrom};
use weir_layout::{Family, protocol};

use super::checker::Checker;
use super::schema::{self, File, Protocol, Rule};
use super::sets::{Among, Known};
use super::{RuleConfig, Site, UplinkConfig};

/// What becomes of packets that would begin a flow and match a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This policy steers them, by its index.
    Policy(u8),
    /// They are dropped.
    Drop,
    /// They are dropped, and their sender is told.
    Reject,
    /// They come in, from uplinks.
    Accept,
}

impl Verdict {
    /// The policy, if one steers them.
    pub fn policy(self) -> Option<u8> {
        match self {
            Self::Policy(policy) => Some(policy),
            Self::Drop | Self::Reject | Self::Accept => None,
        }
    }

    /// What shared memory says.
    pub fn action(self) -> RuleAction {
        match self {
            Self::Policy(_) => RuleAction::Policy,
            Self::Drop => RuleAction::Drop,
            Self::Reject => RuleAction::Reject,
            Self::Accept => RuleAction::Accept,
        }
    }
}

impl RuleConfig {
    /// Whose packets it is about, as shared memory says.
    pub fn from(&self) -> RuleFrom {
        if self.uplinks.is_some() { RuleFrom::Uplink } else { RuleFrom::Lan }
    }

    /// Is it about packets of a family that come by this uplink?
    pub fn is_about(&self, uplink: u8, family: Family) -> bool {
        self.uplinks.as_ref().is_some_and(|uplinks| uplinks.contains(&uplink)) && self.is_of(family)
    }

    /// May packets of the family match?
    pub fn is_of(&self, family: Family) -> bool {
        [self.source, self.destination].iter().flatten().all(|of| of.concerns(family))
    }
}

impl Site {
    /// Are rules asked about what comes in by an uplink in a family?
    pub fn is_ruled(&self, uplink: u8, family: Family) -> bool {
        self.rules.iter().any(|rule| rule.is_about(uplink, family))
    }
}

/// The rules; the maps have the indices of the policies' and the uplinks' names.
pub fn rules(
    c: &mut Checker<'_>,
    file: &File,
    uplinks: &[UplinkConfig],
    sets: &Known,
    [policies, known]: [&HashMap<String, usize>; 2],
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
        let (source, destination) = ends(c, rule, sets, file.has_ipv6());
        let name = r.name.as_ref().map(|name| name.get_ref().clone());
        let name = name.unwrap_or_else(|| format!("rule-{}", index + 1));
        c.warnings.extend(nobody(&name, [source, destination], file.has_ipv6()));
        let config = RuleConfig {
            name,
            uplinks: by(c, rule, uplinks.len() as u8, known),
            in_lan: r.in_interface.as_ref().map(|i| c.find("LAN interface", i, &lans)),
            source,
            destination,
            protocol,
            source_ports,
            destination_ports,
            dscp: r.dscp.is_some().then(|| c.number("dscp", &r.dscp, 0..64, 0) as u8),
            verdict: verdict(c, rule, policies),
        };
        has_path(c, rule, &config, uplinks);
        rules.push(config);
    }
    rules
}

/// The uplinks that a rule is about; none: it is about LANs.
fn by(
    c: &mut Checker<'_>,
    rule: &Spanned<Rule>,
    count: u8,
    known: &HashMap<String, usize>,
) -> Option<Vec<u8>> {
    let r = rule.get_ref();
    match (r.from, &r.uplinks, &r.in_interface) {
        (schema::RuleFrom::Lan, Some(uplinks), _) => c.refuse(
            uplinks.span(),
            "`uplinks` are those that packets come in by, and the rule is about what LANs send",
            "say from = \"uplink\", or name the uplinks in a policy",
        ),
        (schema::RuleFrom::Uplink, _, Some(interface)) => c.refuse(
            interface.span(),
            "`in_interface` is a LAN's, and the rule is about what uplinks bring",
            "name `uplinks`, or remove it for all",
        ),
        (schema::RuleFrom::Uplink, Some(uplinks), None) if uplinks.get_ref().is_empty() => {
            c.refuse(uplinks.span(), "no uplink is named", "name some, or remove `uplinks` for all")
        }
        _ => {}
    }
    let all = || (0..count).collect();
    let named = |c: &mut Checker<'_>, names: &[Spanned<String>]| {
        names.iter().map(|name| c.find("uplink", name, known) as u8).collect()
    };
    let by = r.uplinks.as_ref().map_or_else(all, |names| named(c, names.get_ref()));
    (r.from == schema::RuleFrom::Uplink).then_some(by)
}

/// Refuses a rule about uplinks of which none has its family.
fn has_path(
    c: &mut Checker<'_>,
    rule: &Spanned<Rule>,
    config: &RuleConfig,
    uplinks: &[UplinkConfig],
) {
    let Some(by) = config.uplinks.as_ref().filter(|by| !by.is_empty()) else { return };
    let mut paths = by.iter().filter_map(|uplink| uplinks.get(usize::from(*uplink)));
    let has = |uplink: &UplinkConfig| {
        Family::ALL.into_iter().any(|family| config.is_of(family) && uplink.has_path(family))
    };
    if !paths.any(has) && uplinks.iter().any(has) {
        let message = "no uplink of the rule has a path of the family of its prefixes";
        c.refuse(rule.span(), message, "name others, or give one `ipv6`");
    }
}

/// What the rule says, of an action and a policy that go together.
fn verdict(
    c: &mut Checker<'_>,
    rule: &Spanned<Rule>,
    policies: &HashMap<String, usize>,
) -> Verdict {
    let r = rule.get_ref();
    if r.from == schema::RuleFrom::Uplink {
        return verdict_outside(c, rule);
    }
    let denies = match r.action {
        schema::RuleAction::Policy => None,
        schema::RuleAction::Drop => Some(Verdict::Drop),
        schema::RuleAction::Reject => Some(Verdict::Reject),
        schema::RuleAction::Accept => {
            c.refuse(
                rule.span(),
                "what LANs send is not accepted, but steered",
                "name a `policy` in place of the action, or say from = \"uplink\"",
            );
            return Verdict::Policy(0);
        }
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

/// The same of a rule about what uplinks bring.
fn verdict_outside(c: &mut Checker<'_>, rule: &Spanned<Rule>) -> Verdict {
    let r = rule.get_ref();
    if let Some(policy) = &r.policy {
        c.refuse(
            policy.span(),
            "what comes in by an uplink has no policy: its answers leave by the same",
            "remove `policy`",
        );
    }
    match r.action {
        schema::RuleAction::Drop => Verdict::Drop,
        schema::RuleAction::Reject => Verdict::Reject,
        schema::RuleAction::Accept => Verdict::Accept,
        schema::RuleAction::Policy => {
            if r.policy.is_none() {
                c.refuse(
                    rule.span(),
                    "the rule does not say what becomes of what matches",
                    "say action = \"accept\", \"drop\" or \"reject\"",
                );
            }
            Verdict::Drop
        }
    }
}

/// The protocol's number; 0 for any, and after an error.
fn protocol(c: &mut Checker<'_>, rule: &Rule) -> u8 {
    let Some(given) = &rule.protocol else { return 0 };
    match given.get_ref() {
        Protocol::Number(number) => *number,
        Protocol::Name(name) => protocol::number(name).unwrap_or_else(|| {
            c.refuse(
                given.span(),
                format!("protocol \"{name}\" is not known"),
                "use \"tcp\", \"udp\", \"icmp\" (of both families), \"icmpv6\", \"gre\", \"esp\", \
                 \"ah\", \"sctp\", \"ipip\", \"6in4\" or a number without quotes, such as 136",
            );
            0
        }),
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
            format!("protocol {protocol} has no ports that rules look at"),
            "remove the ports, or say \"tcp\" or \"udp\"",
        );
    }
    (source, destination)
}

/// Source and destination; prefixes are of one family, which an uplink has.
fn ends(
    c: &mut Checker<'_>,
    rule: &Spanned<Rule>,
    sets: &Known,
    has_ipv6: bool,
) -> (Option<Among>, Option<Among>) {
    let r = rule.get_ref();
    let source = r.source.as_ref().map(|given| sets.among(c, given));
    let destination = r.destination.as_ref().map(|given| sets.among(c, given));
    let prefix = |end: Option<Among>| match end {
        Some(Among::Prefix(net)) => Some(net),
        _ => None,
    };
    let prefixes = [prefix(source), prefix(destination)];
    let is_v6 = |prefix: &IpNet| matches!(prefix, IpNet::V6(_));
    if let [Some(IpNet::V4(v4)), Some(IpNet::V6(v6))] | [Some(IpNet::V6(v6)), Some(IpNet::V4(v4))] =
        prefixes
    {
        let message = format!("no packet has an address in {v4} and one in {v6}");
        c.refuse(rule.span(), message, "write a rule for each family");
    } else if let Some(v6) = prefixes.into_iter().flatten().find(is_v6)
        && !has_ipv6
    {
        let message = format!("prefix {v6} is of IPv6, and no uplink is");
        c.refuse(rule.span(), message, "give an uplink `ipv6`, or remove the rule");
    }
    (source, destination)
}

/// Says of a rule that its sets leave it nobody: what they hold changes, so that this is no error. Of a
/// set that is empty, that alone is said.
fn nobody(name: &str, ends: [Option<Among>; 2], has_ipv6: bool) -> Option<String> {
    let has = |end: &Among, family| end.concerns(family) && (has_ipv6 || family == Family::V4);
    let ends = || ends.iter().flatten();
    let is_somebody = |family: Family| ends().all(|end| has(end, family));
    let any_set = ends().any(|end| matches!(end, Among::Set { .. }));
    let any_empty = ends().any(|end| !Family::ALL.into_iter().any(|of| end.concerns(of)));
    (any_set && !any_empty && !Family::ALL.into_iter().any(is_somebody)).then(|| {
        format!(
            "rule {name} matches nothing: its sets have no prefix of a family that it could be about"
        )
    })
}
