//! What is allowed on this machine and certain to hurt.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_layout::control::{Filtering, Translate};
use weir_layout::{Family, protocol};
use weir_view::{Kernel, Link, is_link_local};

use super::schema::{File, OnDataplaneLoss};
use super::{PolicyConfig, PublishConfig, RuleConfig, Site, UplinkConfig, Verdict};
use crate::hooks;

/// What of a site works badly on this machine. `strict` says whether an interface has
/// `rp_filter` 1.
pub fn on_machine(site: &Site, kernel: &Kernel, strict: impl Fn(&str) -> bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for uplink in &site.uplinks {
        let UplinkConfig { name, interface, .. } = uplink;
        let link = kernel.link(interface);
        let left_out = link.map(|link| uplink.left_out(link.index, kernel)).unwrap_or_default();
        if !left_out.is_empty() {
            let left_out: Vec<_> = left_out.iter().map(ToString::to_string).collect();
            warnings.push(format!(
                "uplink {name}: nothing is sent to the Internet from {}, which {interface} has too: \
                 not of the next hop's network, not of global scope, or deprecated. If the \
                 provider routes it here, name all its addresses in `addresses`",
                left_out.join(", ")
            ));
        }
        let near = |host: &IpAddr| {
            let of = Family::of(*host);
            let nets = link.map(|link| kernel.networks(of, link.index));
            uplink.given_next_hop(of) == Some(*host)
                || is_link_local(*host) && host.is_ipv6()
                || nets.iter().flatten().any(|net| net.contains(host))
        };
        for family in Family::ALL {
            let hosts = hosts(uplink, family);
            if !hosts.is_empty() && hosts.iter().all(near) {
                warnings.push(format!(
                    "uplink {}: all targets are on the link itself, so it looks well while the \
                     provider behind it is dead: add one on the Internet",
                    path_name(uplink, family)
                ));
            }
        }
        let asks = !hosts(uplink, Family::V4).is_empty();
        // Weir's rules by source address are what makes answers pass the check.
        if asks && !site.own_traffic && site.uplinks.len() > 1 && strict(interface) {
            warnings.push(format!(
                "uplink {name}: net.ipv4.conf.{interface}.rp_filter is 1, and without own_traffic \
                 the kernel drops answers to probes unless its default route leads there: set it \
                 (and that of `all`) to 2"
            ));
        }
    }
    warnings.extend(few_queues(site, kernel));
    if let Some(directory) = &site.hooks {
        match hooks::programs(directory) {
            Ok((_, refused)) => warnings.extend(refused),
            Err(error) => warnings.push(error),
        }
    }
    warnings
}

/// Says of which uplinks no next hop of IPv6 can be learned. `takes` says whether the kernel takes
/// router advertisements on an interface; where another program does, it enters the routes.
pub fn unadvertised(site: &Site, kernel: &Kernel, takes: impl Fn(&str) -> bool) -> Vec<String> {
    let has_next_hop = |uplink: &UplinkConfig| {
        let next_hop = |link: &Link| uplink.next_hop_by(Family::V6, link.index, kernel);
        uplink.given_next_hop(Family::V6).is_some()
            || kernel.link(&uplink.interface).and_then(next_hop).is_some()
    };
    let learns = |uplink: &&UplinkConfig| uplink.has_path(Family::V6) && !has_next_hop(uplink);
    let deaf = site.uplinks.iter().filter(learns).filter(|uplink| !takes(&uplink.interface));
    let warning = |uplink: &UplinkConfig| {
        let UplinkConfig { name, interface, .. } = uplink;
        // As sysctl(8) has it, a dot of the name is a slash.
        let key = interface.replace('.', "/");
        format!(
            "uplink {name}: the kernel takes no router advertisements on {interface}, so that no \
             next hop of IPv6 is learned: set net.ipv6.conf.{key}.accept_ra to 2, or say \
             next_hop in `ipv6`"
        )
    };
    deaf.map(warning).collect()
}

/// Says which uplinks have no IPv4 address to translate to.
pub fn without_pool(site: &Site, kernel: &Kernel) -> Vec<String> {
    let is_bare = |uplink: &&UplinkConfig| {
        let link = kernel.link(&uplink.interface);
        uplink.translation(Family::V4) == Translate::Napt
            && link.is_some_and(|link| uplink.pool(Family::V4, link.index, kernel).is_empty())
    };
    let warning = |UplinkConfig { name, interface, .. }: &UplinkConfig| {
        format!(
            "uplink {name}: {interface} has no IPv4 address to translate to: its IPv4 is down \
             until it has one, of DHCP say"
        )
    };
    site.uplinks.iter().filter(is_bare).map(warning).collect()
}

/// Says of which IPv6 paths the gateway has no address to send from. One that waits for a prefix
/// may have one when that comes.
pub fn unaddressed(site: &Site, kernel: &Kernel) -> Vec<String> {
    let is_known = |uplink: &&UplinkConfig| uplink.has_path(Family::V6) && !uplink.awaits_prefix();
    let paths = site.uplinks.iter().filter(is_known);
    let bare = paths.filter(|uplink| {
        let link = kernel.link(&uplink.interface);
        link.is_some_and(|link| match uplink.translation(Family::V6) {
            Translate::Napt => uplink.pool(Family::V6, link.index, kernel).is_empty(),
            _ => !site.has_source(uplink, Family::V6, link.index, kernel),
        })
    });
    let warning = |uplink: &UplinkConfig| {
        let UplinkConfig { interface, .. } = uplink;
        let name = path_name(uplink, Family::V6);
        if uplink.translation(Family::V6) == Translate::Napt {
            return format!(
                "uplink {name}: {interface} has no global address to translate to: the path is down \
                 until it has one, or `addresses` names one that the gateway has"
            );
        }
        format!(
            "uplink {name}: {interface} has no global address, and the gateway has none elsewhere \
             of a prefix that this path carries: no target is probed, and no host outside is told \
             of a smaller MTU. Add one, as with `ip -6 addr add <prefix>::1/128 dev lo`"
        )
    };
    bare.map(warning).collect()
}

/// Says of which paths nothing beyond the next hop is probed.
pub fn unwatched(site: &Site) -> Option<String> {
    let is_unwatched = |uplink: &UplinkConfig, family| {
        uplink.path_health(family).is_some_and(|health| health.implied)
    };
    let paths = |uplink| {
        let unwatched = Family::ALL.into_iter().filter(move |family| is_unwatched(uplink, *family));
        unwatched.map(move |family| path_name(uplink, family))
    };
    let names: Vec<_> = site.uplinks.iter().flat_map(paths).collect();
    let names = Some(names.join(", ")).filter(|names| !names.is_empty())?;
    Some(format!(
        "nothing beyond the next hop of {names} is watched, so that a provider which is dead behind \
         it looks well: add [[health.targets]], two of different owners"
    ))
}

/// What of a file is allowed, and likely not what was meant.
pub fn of_file(
    file: &File,
    uplinks: &[UplinkConfig],
    policies: &[PolicyConfig],
    rules: &[RuleConfig],
    default_policy: u8,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let default = policies.get(usize::from(default_policy));
    if let Some(default) = default.filter(|policy| policy.name != super::policies::DEFAULT_POLICY)
        && file.gateway.default_policy.is_none()
        && policies.len() > 1
    {
        warnings.push(format!(
            "policy {0} takes all that no rule matches because it is the first in the file: say \
             default_policy = \"{0}\" in [gateway], or another",
            default.name
        ));
    }
    for (index, rule) in rules.iter().enumerate() {
        let is_ahead_of = |other: &&RuleConfig| match (&rule.uplinks, &other.uplinks) {
            (Some(by), Some(of_other)) => of_other.iter().all(|uplink| by.contains(uplink)),
            (by, of_other) => by.is_none() && of_other.is_none(),
        };
        let everything = rule.in_lan.is_none()
            && rule.source.is_none_or(|of| of.is_everything())
            && rule.destination.is_none_or(|of| of.is_everything())
            && rule.protocol == 0
            && rule.source_ports.is_none()
            && rule.destination_ports.is_none()
            && rule.dscp.is_none();
        let later = rules[index + 1..].iter().filter(is_ahead_of).count();
        if everything && later > 0 {
            let (whose, what) = match rule.uplinks {
                None => ("", "everything"),
                Some(_) => (" of its uplinks", "all that they bring"),
            };
            warnings.push(format!(
                "rule {} has no criteria and matches {what}: the {later}{whose} after it never do; \
                 move it to the end",
                rule.name
            ));
        }
    }
    let mut of_lans = rules.iter().filter(|rule| rule.uplinks.is_none());
    let denies = of_lans.find(|rule| rule.verdict.policy().is_none());
    if let (Some(rule), OnDataplaneLoss::Kernel) = (denies, file.gateway.on_dataplane_loss) {
        warnings.push(format!(
            "rule {} does not hold while the kernel stands in for the dataplane: say \
             on_dataplane_loss = \"drop\", or deny the same in the hook forward",
            rule.name
        ));
    }
    warnings.extend(nowhere(uplinks, policies, rules, default_policy));
    let used = |policy: &PolicyConfig, index: usize| {
        policy.members.iter().any(|member| usize::from(member.uplink) == index)
    };
    for (index, uplink) in uplinks.iter().enumerate() {
        if !policies.iter().any(|policy| used(policy, index)) {
            warnings.push(format!(
                "uplink {} is in no policy and takes no flows: add it to the members of one",
                uplink.name
            ));
        }
    }
    for (index, policy) in policies.iter().enumerate() {
        if index != usize::from(default_policy)
            && !rules
                .iter()
                .any(|rule| rule.verdict.policy().is_some_and(|of| usize::from(of) == index))
        {
            warnings.push(format!(
                "policy {} takes no flows: it is not the default, and no rule names it",
                policy.name
            ));
        }
    }
    warnings
}

/// Says which rules accept what no uplink lets in all the same: where ports are translated, a rule
/// opens none.
pub fn accepts_nothing(
    uplinks: &[UplinkConfig],
    rules: &[RuleConfig],
    publish: &[PublishConfig],
) -> Vec<String> {
    let matters = |rule: &RuleConfig, number: u8| {
        let Some(uplink) = uplinks.get(usize::from(number)) else { return true };
        let mut families = Family::ALL.into_iter().filter(|family| rule.is_about(number, *family));
        uplink.filtering != Filtering::AddressAndPort
            || publish.iter().any(|publish| publish.uplinks.contains(&number))
            || families.any(|family| {
                uplink.has_path(family) && uplink.translation(family) != Translate::Napt
            })
    };
    let accepts = || rules.iter().filter(|rule| rule.verdict == Verdict::Accept);
    let begins = |rule: &RuleConfig| {
        matches!(
            rule.protocol,
            0 | protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6
        )
    };
    let portless = accepts().filter(|rule| !begins(rule)).map(|rule| {
        format!(
            "rule {} lets in nothing: of protocol {} no flow begins by an uplink, only of TCP, UDP and \
             ICMP echo",
            rule.name, rule.protocol
        )
    });
    let accepts = accepts().filter(|rule| begins(rule));
    let in_vain = accepts.filter(|rule| {
        let mut by = rule.uplinks.iter().flatten();
        !by.any(|uplink| matters(rule, *uplink))
    });
    let warning = |rule: &RuleConfig| {
        format!(
            "rule {} lets in nothing: its uplinks translate ports, so that what comes is for a host \
             only by [[publish]] or `filtering`, and they have neither",
            rule.name
        )
    };
    in_vain.map(warning).chain(portless).collect()
}

/// Says where packets of IPv6 meet a policy without an uplink that has IPv6, though others have it.
fn nowhere(
    uplinks: &[UplinkConfig],
    policies: &[PolicyConfig],
    rules: &[RuleConfig],
    default_policy: u8,
) -> Vec<String> {
    let has_ipv6 = |uplink: &UplinkConfig| uplink.has_path(Family::V6);
    if !uplinks.iter().any(has_ipv6) {
        return Vec::new();
    }
    let warning = |packets: &str, policy: u8| {
        let policy = policies.get(usize::from(policy))?;
        let mut members = policy.members.iter();
        let leads = members.any(|m| uplinks.get(usize::from(m.uplink)).is_some_and(has_ipv6));
        (!leads).then(|| {
            format!(
                "IPv6 packets that {packets} go nowhere: no uplink of policy {} has `ipv6`",
                policy.name
            )
        })
    };
    let is_of_ipv4 = |rule: &&RuleConfig| {
        [rule.source, rule.destination].iter().flatten().any(|of| !of.concerns(Family::V6))
    };
    let by_rules = rules.iter().filter(|rule| !is_of_ipv4(rule));
    let by_rules = by_rules.filter_map(|rule| Some((&rule.name, rule.verdict.policy()?)));
    let by_rules = by_rules.map(|(name, policy)| (format!("match rule {name}"), policy));
    let default = ("match no rule".to_owned(), default_policy);
    let all = by_rules.chain([default]);
    all.filter_map(|(packets, policy)| warning(&packets, policy)).collect()
}

/// Devices whose packets do not reach all workers by themselves.
fn few_queues(site: &Site, kernel: &Kernel) -> Vec<String> {
    let devices = site.interfaces().filter_map(|name| Some(kernel.usable(name).ok()?.1));
    let few = devices.filter(|device| device.queues < site.workers.into());
    // VLANs of a device are told of once.
    let few: BTreeSet<_> = few.map(|device| (&device.name, device.queues)).collect();
    let warning = |(name, queues): (&String, u32)| {
        let workers = site.workers;
        format!(
            "{name} has {queues} queues for {workers} workers: as many workers receive its packets \
             and hand off those of the others' flows; if it can have more, `ethtool -L {name} \
             combined {workers}`"
        )
    };
    few.into_iter().map(warning).collect()
}

/// What the file has probed for an uplink's path in a family.
fn hosts(uplink: &UplinkConfig, family: Family) -> BTreeSet<IpAddr> {
    let health = uplink.path_health(family).filter(|health| !health.implied);
    let targets = health.into_iter().flat_map(|health| health.targets);
    targets.filter_map(|target| target.kind.host()).collect()
}

/// How an uplink's path is called: as in `weir uplinks`.
fn path_name(uplink: &UplinkConfig, family: Family) -> String {
    match family {
        Family::V4 => uplink.name.clone(),
        Family::V6 => format!("{} (IPv6)", uplink.name),
    }
}

/// What can be said of an uplink's targets without the machine.
pub fn of_targets(uplink: &UplinkConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    for family in Family::ALL {
        let hosts = hosts(uplink, family);
        let Some(health) = uplink.path_health(family).filter(|_| !hosts.is_empty()) else {
            continue;
        };
        let path = path_name(uplink, family);
        if hosts.len() == 1 {
            warnings.push(format!(
                "uplink {path}: all that is probed is one host, and when that fails the uplink is \
                 down for it: add a target of another owner"
            ));
        }
        let targets = health.targets.len();
        if targets < uplink.health.quorum as usize {
            warnings.push(format!(
                "uplink {path}: {targets} of its targets are of this family, so not more than that \
                 must answer, though quorum is {}: add some",
                uplink.health.quorum
            ));
        }
    }
    warnings
}

/// Does the kernel take router advertisements on an interface (ip-sysctl.rst: where it forwards,
/// with `accept_ra` 2 alone)? One that is not there may, one day.
pub fn takes_advertisements(interface: &str) -> bool {
    let value = |key| setting("ipv6", interface, key);
    match (value("accept_ra"), value("forwarding")) {
        (Some(0), _) => false,
        (Some(1), Some(forwards)) => forwards == 0,
        _ => true,
    }
}

/// Is the effective `rp_filter` of an interface strict (ip-sysctl.rst: the greater of its own and
/// that of `all`)?
pub fn is_strict(interface: &str) -> bool {
    let value = |of| setting("ipv4", of, "rp_filter");
    value("all").max(value(interface)) == Some(1)
}

/// A kernel's setting of an interface, or of `all`, by `ipv4` or `ipv6`; none: there is no such
/// thing.
pub fn setting(version: &str, of: &str, key: &str) -> Option<i32> {
    let path = format!("/proc/sys/net/{version}/conf/{of}/{key}");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
