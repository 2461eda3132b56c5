//! From the file to a [`Site`]: names become indices, and what makes no sense is refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;
use weir_layout::control::{
    MAX_LAN_PREFIXES, MAX_POOL, Member, OnDataplaneLoss, OnUplinkDown, Selection, Tier, Timeouts,
    Translate,
};
use weir_layout::{MAX_POLICIES, MAX_RULES, MAX_UPLINKS, MAX_WORKERS};

use super::checker::Checker;
use super::machine::overlap;
use super::place::{Places, Problem};
use super::schema::{self, Addresses, Cut, File, Key, Loss, Protocol, Translation};
use super::{Failback, Lan, MemberConfig, PolicyConfig, RuleConfig, Site, UplinkConfig};
use super::{capacity, ipv6};
use crate::health::{Fault, Health};
use crate::load::Balance;

const DEFAULT_NAT_PORTS: (u16, u16) = (16_384, 65_535);
const DEFAULT_FLOW_TABLE: i64 = 262_144;
pub const DEFAULT_POLICY: &str = "balanced";

pub fn resolve(file: &File, places: &Places<'_>, hash: u64) -> Result<Site, Vec<Problem>> {
    let mut c = Checker { places, problems: Vec::new(), warnings: Vec::new() };
    let gateway = &file.gateway;
    let workers = c.number("workers", &gateway.workers, 1..MAX_WORKERS as i64 + 1, 1) as u8;
    let flow_table =
        c.number("flow_table", &gateway.flow_table, 1024..(1 << 28) + 1, DEFAULT_FLOW_TABLE) as u32;
    let nat_ports =
        gateway.nat_ports.as_ref().and_then(|text| c.range(text)).unwrap_or(DEFAULT_NAT_PORTS);
    if u32::from(nat_ports.1 - nat_ports.0) + 1 < u32::from(workers) * 64 || nat_ports.0 < 1024 {
        let span = gateway.nat_ports.as_ref().map_or(0..0, Spanned::span);
        let (lo, hi) = nat_ports;
        c.refuse(
            span,
            format!("NAT ports {lo}-{hi} do not do for {workers} workers"),
            "begin at 1024 or above and give each worker 64 ports or more",
        );
    }

    let mut cores = gateway.cores.clone();
    cores.sort_unstable();
    cores.dedup();
    if cores.len() != gateway.cores.len() || cores.len() > usize::from(workers) {
        c.whole(
            format!("cores {:?} do not do for {workers} workers", gateway.cores),
            "give each worker one core of its own; workers beyond the list are not pinned",
        );
    }

    if let Some(hooks) = gateway.hooks.as_ref().filter(|hooks| !hooks.get_ref().is_absolute()) {
        let message = format!("hooks directory {} is no absolute path", hooks.get_ref().display());
        c.refuse(hooks.span(), message, "begin it with /");
    }

    let uplinks_known = c.unique("uplink", file.uplink.iter().map(|u| &u.get_ref().name));
    let interfaces = file.lan.iter().map(|l| &l.get_ref().interface);
    let interfaces = interfaces.chain(file.uplink.iter().map(|u| &u.get_ref().interface));
    c.unique("interface", interfaces.clone());
    interfaces.for_each(|name| c.interface(name));
    let lans_known: HashMap<_, _> = file
        .lan
        .iter()
        .enumerate()
        .map(|(i, l)| (l.get_ref().interface.get_ref().clone(), i))
        .collect();

    if file.lan.is_empty() {
        c.whole("there is no LAN", "add [[lan]] with an interface");
    }
    if file.uplink.is_empty() {
        c.whole("there is no uplink", "add [[uplink]] with a name and an interface");
    }
    c.too_many("uplinks", file.uplink.len(), MAX_UPLINKS);
    c.too_many("LANs and uplinks", file.uplink.len() + file.lan.len(), MAX_UPLINKS);
    c.too_many("policies", file.policy.len(), MAX_POLICIES);
    c.too_many("rules", file.rule.len(), MAX_RULES);

    let lans = lans(&mut c, file);
    let mut uplinks = uplinks(&mut c, file);
    let policies = policies(&mut c, file, &uplinks, &uplinks_known);
    for index in 0..uplinks.len() {
        let beside = has_another_beside(index as u8, &uplinks, &policies);
        uplinks[index].health.passive.enabled.get_or_insert(beside);
    }
    let policies_known: HashMap<_, _> =
        policies.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
    let default_policy = match &gateway.default_policy {
        Some(name) => c.find("policy", name, &policies_known) as u8,
        None => policies_known.get(DEFAULT_POLICY).copied().unwrap_or(0) as u8,
    };
    let rules = rules(&mut c, file, &policies_known, &lans_known);
    let timeouts = timeouts(&mut c, file);
    c.warnings.extend(super::warn::of_file(file, &uplinks, &policies, &rules, default_policy));
    c.warnings.extend(capacity::warnings(&uplinks, &policies));

    if !c.problems.is_empty() {
        return Err(c.problems);
    }
    Ok(Site {
        hash,
        workers,
        cores: gateway.cores.clone(),
        flow_table,
        nat_ports,
        on_dataplane_loss: match gateway.on_dataplane_loss {
            Loss::Drop => OnDataplaneLoss::Drop,
            Loss::Kernel => OnDataplaneLoss::Kernel,
        },
        tier: match gateway.tier {
            schema::Tier::Kernel => Tier::Kernel,
            schema::Tier::User => Tier::User,
        },
        own_traffic: gateway.own_traffic,
        sysctls: gateway.sysctls,
        group: gateway.group.as_ref().map(|group| group.get_ref().clone()),
        hooks: gateway.hooks.as_ref().map(|hooks| hooks.get_ref().clone()),
        default_policy,
        timeouts,
        lans,
        uplinks,
        policies,
        rules,
        warnings: c.warnings,
    })
}

/// Has an uplink an IPv6 path?
fn has_ipv6(file: &File) -> bool {
    file.uplink.iter().any(|uplink| uplink.get_ref().ipv6.is_some())
}

fn lans(c: &mut Checker<'_>, file: &File) -> Vec<Lan> {
    let has_ipv6 = has_ipv6(file);
    let mut seen: Vec<(IpNet, usize)> = Vec::new();
    let mut lans = Vec::new();
    for lan in &file.lan {
        let line = c.places.line(lan.span().start);
        let lan = lan.get_ref();
        let mut prefixes = Vec::new();
        for spanned in &lan.prefixes {
            let prefix = c.prefix(spanned);
            if let Some((other, line)) = seen.iter().find(|(p, _)| overlap(p, &prefix)) {
                let message = format!("LAN prefix {prefix} overlaps {other} of line {line}");
                c.refuse(spanned.span(), message, "each address belongs to one LAN port");
            }
            if matches!(prefix, IpNet::V6(_)) && !has_ipv6 {
                let message = format!("LAN prefix {prefix} is of IPv6, and no uplink is");
                c.refuse(spanned.span(), message, "give an uplink `ipv6`, or remove it");
            }
            seen.push((prefix, c.places.line(spanned.span().start)));
            prefixes.push(prefix);
        }
        lans.push(Lan { interface: lan.interface.get_ref().clone(), prefixes, line });
    }
    c.too_many("LAN prefixes", seen.len(), MAX_LAN_PREFIXES);
    lans
}

fn uplinks(c: &mut Checker<'_>, file: &File) -> Vec<UplinkConfig> {
    let mut uplinks = Vec::new();
    let mut pooled: HashMap<IpAddr, usize> = HashMap::new();
    let everywhere = file.health.as_ref().map_or_else(Health::default, |h| health(c, h, &[]));
    let inherited = everywhere.check();
    for uplink in &file.uplink {
        let line = c.places.line(uplink.span().start);
        let u = uplink.get_ref();
        c.name("uplink", &u.name);
        let weight = c.number("weight", &u.weight, 0..i64::from(Member::MAX_WEIGHT) + 1, 1) as u16;
        let mut addresses: Vec<Ipv4Addr> = Vec::new();
        for given in &u.addresses {
            match given.get_ref() {
                Addresses::One(address) => addresses.push(*address),
                Addresses::Prefix(net) if net.prefix_len() >= 28 => {
                    addresses.extend(net.trunc().hosts())
                }
                Addresses::Prefix(net) => {
                    c.refuse(
                        given.span(),
                        format!("pool {net} is larger than {MAX_POOL} addresses"),
                        "give a /28 or less",
                    );
                }
            }
        }
        for address in &addresses {
            if let Some(first) = pooled.insert(IpAddr::V4(*address), line) {
                c.refuse(
                    uplink.span(),
                    format!("address {address} is there twice, first in line {first}"),
                    "replies to it can return by one uplink only: remove one of them",
                );
            }
        }
        if addresses.len() > MAX_POOL {
            let message = format!("{} addresses, at most {MAX_POOL} are possible", addresses.len());
            c.refuse(uplink.span(), message, "remove some from the uplink's pool");
        }
        let inbound = u.inbound.as_ref().filter(|inbound| *inbound.get_ref());
        if let (Some(inbound), Translation::Nat44) = (inbound, u.translate) {
            c.refuse(
                inbound.span(),
                "inbound = true on an uplink that translates",
                "what comes in there is for its own addresses: remove it, or say \
                 translate = \"none\"",
            );
        }
        let ipv6 = u.ipv6.as_ref().map(|given| ipv6::path(c, given, &mut pooled, line));
        let mut refuse = |span, what, help: &str| c.refuse(span, what, help);
        let capacity = capacity::capacity(u.capacity.as_ref(), &mut refuse);
        let spill = capacity::spill(u.spill.as_ref(), capacity, &mut refuse);
        let uplink = UplinkConfig {
            name: u.name.get_ref().clone(),
            interface: u.interface.get_ref().clone(),
            weight,
            next_hop: u.next_hop,
            addresses,
            translate: match u.translate {
                Translation::Nat44 => Translate::Nat44,
                Translation::None => Translate::None,
            },
            ipv6,
            implied: Default::default(),
            inbound: inbound.is_some(),
            health: u
                .health
                .as_ref()
                .map_or_else(|| everywhere.clone(), |h| health(c, h, &inherited)),
            capacity,
            spill,
            line,
        };
        if super::warn::hosts(&uplink).len() == 1 {
            c.warnings.push(format!(
                "uplink {}: all that is probed is one host, and when that fails the uplink is down \
                 for it: add a target of another owner",
                uplink.name
            ));
        }
        uplinks.push(uplink);
    }
    uplinks
}

/// Is there another uplink, with a weight, in the same tier of some policy?
fn has_another_beside(index: u8, uplinks: &[UplinkConfig], policies: &[PolicyConfig]) -> bool {
    policies.iter().any(|policy| {
        let own = policy.members.iter().find(|member| member.uplink == index);
        let weight = |member: &MemberConfig| {
            member.weight.unwrap_or(uplinks[usize::from(member.uplink)].weight)
        };
        policy.members.iter().any(|other| {
            other.uplink != index
                && own.is_some_and(|own| own.tier == other.tier)
                && weight(other) > 0
        })
    })
}

/// What was inherited with its faults, which are `told`, is not told again.
fn health(c: &mut Checker<'_>, given: &Spanned<Health>, told: &[Fault]) -> Health {
    for fault in given.get_ref().check().into_iter().filter(|fault| !told.contains(fault)) {
        c.refuse(given.span(), format!("health.{}: {}", fault.field, fault.what), fault.help);
    }
    given.get_ref().clone()
}

fn policies(
    c: &mut Checker<'_>,
    file: &File,
    uplinks: &[UplinkConfig],
    known: &HashMap<String, usize>,
) -> Vec<PolicyConfig> {
    let everyone = || {
        (0..uplinks.len())
            .map(|u| MemberConfig { uplink: u as u8, tier: 1, weight: None })
            .collect()
    };
    c.unique("policy", file.policy.iter().map(|p| &p.get_ref().name));
    let mut policies = Vec::new();
    for policy in &file.policy {
        let p = policy.get_ref();
        c.name("policy", &p.name);
        let members: Vec<MemberConfig> = match &p.members {
            None => everyone(),
            Some(given) => {
                c.unique("uplink of a policy", given.iter().map(|m| &m.get_ref().uplink));
                let most = i64::from(Member::MAX_WEIGHT) + 1;
                let member = |m: &Spanned<super::schema::Member>, c: &mut Checker<'_>| {
                    let m = m.get_ref();
                    let weight = m
                        .weight
                        .is_some()
                        .then(|| c.number("weight", &m.weight, 0..most, 1) as u16);
                    MemberConfig {
                        uplink: c.find("uplink", &m.uplink, known) as u8,
                        tier: c.number("tier", &m.tier, 1..255, 1) as u8,
                        weight,
                    }
                };
                given.iter().map(|m| member(m, c)).collect()
            }
        };
        zero_weights(c, policy.span(), p.name.get_ref(), &members, uplinks);
        policies.push(PolicyConfig {
            name: p.name.get_ref().clone(),
            selection: match p.selection {
                Key::SourceDestination => Selection::SourceDestination,
                Key::Flow => Selection::Flow,
                Key::Source => Selection::Source,
            },
            balance: p.balance,
            spillover: p.spillover,
            members,
            on_uplink_down: match p.on_uplink_down {
                Cut::Reset => OnUplinkDown::Reset,
                Cut::Keep => OnUplinkDown::Keep,
                Cut::Drop => OnUplinkDown::Drop,
            },
            failback: failback(c, p),
            idle_s: c.seconds("idle", &p.idle, u16::MAX.into(), PolicyConfig::IDLE_S.into()) as u16,
            failback_rate: c.number(
                "failback_rate",
                &p.failback_rate,
                1..1_000_001,
                PolicyConfig::FAILBACK_RATE.into(),
            ) as u32,
        });
    }
    if policies.is_empty() {
        policies.push(PolicyConfig {
            name: DEFAULT_POLICY.into(),
            selection: Selection::SourceDestination,
            balance: Balance::Hash,
            spillover: true,
            members: everyone(),
            on_uplink_down: OnUplinkDown::Reset,
            failback: Failback::NewFlows,
            idle_s: PolicyConfig::IDLE_S,
            failback_rate: PolicyConfig::FAILBACK_RATE,
        });
    }
    policies
}

fn failback(c: &mut Checker<'_>, policy: &schema::Policy) -> Failback {
    const DAY: u64 = 86_400;
    let deadline = c.seconds("failback_deadline", &policy.failback_deadline, 30 * DAY, 600) as u32;
    match (policy.failback, &policy.failback_deadline) {
        (schema::Failback::Deadline, _) => Failback::Deadline(deadline),
        (_, Some(given)) => {
            c.refuse(
                given.span(),
                "failback_deadline has no effect without failback = \"deadline\"",
                "remove it, or set failback",
            );
            Failback::NewFlows
        }
        (schema::Failback::NewFlows, None) => Failback::NewFlows,
        (schema::Failback::Idle, None) => Failback::Idle,
    }
}

fn zero_weights(
    c: &mut Checker<'_>,
    span: Range<usize>,
    name: &str,
    members: &[MemberConfig],
    uplinks: &[UplinkConfig],
) {
    let weight = |m: &MemberConfig| {
        m.weight.or(uplinks.get(usize::from(m.uplink)).map(|u| u.weight)).unwrap_or(0)
    };
    let mut tiers: Vec<u8> = members.iter().map(|m| m.tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    if members.is_empty() {
        c.refuse(
            span,
            format!("policy \"{name}\" has no members"),
            "list uplinks, or leave `members` out for all",
        );
        return;
    }
    for tier in tiers {
        let total: u32 =
            members.iter().filter(|m| m.tier == tier).map(|m| u32::from(weight(m))).sum();
        if total == 0 {
            let message = format!("the weights of policy \"{name}\" tier {tier} add up to zero");
            c.refuse(span.clone(), message, "give at least one of its uplinks a weight");
        }
    }
}

fn rules(
    c: &mut Checker<'_>,
    file: &File,
    policies: &HashMap<String, usize>,
    lans: &HashMap<String, usize>,
) -> Vec<RuleConfig> {
    let has_ipv6 = has_ipv6(file);
    let is_v6 = |prefix: &IpNet| matches!(prefix, IpNet::V6(_));
    let mut rules = Vec::new();
    for (index, rule) in file.rule.iter().enumerate() {
        let r = rule.get_ref();
        if let Some(name) = &r.name {
            c.name("rule", name);
        }
        let protocol = match r.protocol.as_ref().map(|p| (p.get_ref(), p.span())) {
            None => 0,
            Some((Protocol::Number(number), _)) => *number,
            Some((Protocol::Name(name), span)) => match name.as_str() {
                "tcp" => 6,
                "udp" => 17,
                "icmp" => 1,
                other => {
                    c.refuse(
                        span,
                        format!("protocol \"{other}\" is not known"),
                        "use \"tcp\", \"udp\", \"icmp\" or a number",
                    );
                    0
                }
            },
        };
        let source_ports = r.source_ports.as_ref().and_then(|p| c.range(p));
        let destination_ports = r.destination_ports.as_ref().and_then(|p| c.range(p));
        if (source_ports.is_some() || destination_ports.is_some())
            && !matches!(protocol, 0 | 6 | 17)
        {
            c.refuse(
                rule.span(),
                format!("protocol {protocol} has no ports"),
                "remove the ports, or say \"tcp\" or \"udp\"",
            );
        }
        let (source, destination) = (r.source.as_ref(), r.destination.as_ref());
        let (source, destination) = (source.map(|p| c.prefix(p)), destination.map(|p| c.prefix(p)));
        if let (Some(IpNet::V4(v4)), Some(IpNet::V6(v6)))
        | (Some(IpNet::V6(v6)), Some(IpNet::V4(v4))) = (source, destination)
        {
            let message = format!("no packet has an address in {v4} and one in {v6}");
            c.refuse(rule.span(), message, "write a rule for each family");
        } else if let Some(v6) = [source, destination].into_iter().flatten().find(is_v6)
            && !has_ipv6
        {
            let message = format!("prefix {v6} is of IPv6, and no uplink is");
            c.refuse(rule.span(), message, "give an uplink `ipv6`, or remove the rule");
        }
        rules.push(RuleConfig {
            name: r
                .name
                .as_ref()
                .map_or_else(|| format!("rule-{}", index + 1), |n| n.get_ref().clone()),
            in_lan: r.in_interface.as_ref().map(|i| c.find("LAN interface", i, lans)),
            source,
            destination,
            protocol,
            source_ports,
            destination_ports,
            dscp: r.dscp.is_some().then(|| c.number("dscp", &r.dscp, 0..64, 0) as u8),
            policy: c.find("policy", &r.policy, policies) as u8,
        });
    }
    rules
}

fn timeouts(c: &mut Checker<'_>, file: &File) -> Timeouts {
    let d = Timeouts::DEFAULT;
    let t = &file.timeouts;
    let mut of = |what: &str, given: &Option<Spanned<u32>>, default: u32, least: u32, rfc: &str| {
        let Some(given) = given else { return default };
        let seconds = *given.get_ref();
        if seconds == 0 || seconds > 1_000_000 {
            c.refuse(
                given.span(),
                format!("{what} = {seconds} is out of range"),
                "use 1 to 1000000 seconds",
            );
        } else if seconds < least {
            c.warnings.push(format!("{what} = {seconds} s is below the {least} s of {rfc}"));
        }
        seconds
    };
    Timeouts {
        tcp_opening: of("tcp_opening", &t.tcp_opening, d.tcp_opening, 240, "RFC 5382 REQ-5"),
        tcp_established: of(
            "tcp_established",
            &t.tcp_established,
            d.tcp_established,
            7440,
            "RFC 5382 REQ-5",
        ),
        tcp_closing: of("tcp_closing", &t.tcp_closing, d.tcp_closing, 240, "RFC 5382 REQ-5"),
        udp: of("udp", &t.udp, d.udp, 120, "RFC 4787 REQ-5"),
        icmp: of("icmp", &t.icmp, d.icmp, 60, "RFC 5508 REQ-2"),
        reserved: 0,
    }
}
