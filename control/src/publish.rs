//! From a site and the kernel's view to the state that is published.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weir_shm::control::{BucketTable, ControlRegion, Snapshot, empty_half};
use weir_wire::layout::NONE;
use weir_wire::layout::control::{
    ControlHalf, DeviceFault, MAX_LAN_PREFIXES, MAX_POOL, Mac, Member as MemberLayout, Name,
    PortRole, Prefix, Rule as RuleLayout, Translate, Uplink as UplinkLayout, uplink_state,
};
use weir_wire::layout::flow::slots_for;

use crate::buckets::{Buckets, Member};
use crate::hosts;
use crate::load::Placement;
use crate::ports::{self, Ports};
use crate::site::{self, Site, Uplink};
use crate::watch::{Kernel, Link};

/// What was set at run time and not in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Weight by uplink.
    pub weights: BTreeMap<u8, u16>,
    /// Weight by policy and uplink.
    pub member_weights: BTreeMap<(u8, u8), u16>,
    /// Uplinks that the operator does not want to use as they are.
    pub hands: BTreeMap<u8, Hand>,
}

/// What the operator set an uplink to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Down.
    Down,
    /// To be emptied until then, CLOCK_BOOTTIME seconds or [`UplinkLayout::NO_DEADLINE`].
    Draining(u64),
    /// To be emptied until then, and that is past.
    Drained(u64),
}

impl Hand {
    /// Bits of the uplink's state word; a drained uplink has both.
    fn bits(self) -> u32 {
        match self {
            Self::Down => uplink_state::ADMIN_DOWN,
            Self::Draining(_) => uplink_state::DRAINING,
            Self::Drained(_) => uplink_state::ADMIN_DOWN | uplink_state::DRAINING,
        }
    }
}

impl Overrides {
    /// What an earlier control process had set, for what the site still has of it.
    pub fn adopt(site: &Site, region: &ControlRegion, snapshot: &Snapshot) -> Self {
        let mut overrides = Self::default();
        let half = &snapshot.half;
        for (uplink, published) in half.uplinks.iter().enumerate() {
            let uplink = uplink as u8;
            if published.weight_overridden == 1 {
                overrides.weights.insert(uplink, published.weight);
            }
            let down = region.uplink_state(uplink) & uplink_state::ADMIN_DOWN != 0;
            match published.drain_until {
                0 if down => _ = overrides.hands.insert(uplink, Hand::Down),
                0 => {}
                until => _ = overrides.hands.insert(uplink, Hand::Draining(until)),
            }
        }
        for (policy, published) in half.policies.iter().enumerate() {
            for member in published.members() {
                if member.weight & MemberLayout::OVERRIDDEN != 0 {
                    let weight = member.weight & MemberLayout::MAX_WEIGHT;
                    overrides.member_weights.insert((policy as u8, member.uplink), weight);
                }
            }
        }
        let uplinks: Vec<_> = half.uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
        let policies: Vec<_> = half.policies.iter().map(|policy| policy.name.as_str()).collect();
        overrides.carry(&uplinks, &policies, site)
    }

    /// What stays of it with another file. Names decide: `uplinks` and `policies` are those that its
    /// indices stand for, and what the site has under none of them is forgotten.
    pub fn carry(&self, uplinks: &[&str], policies: &[&str], site: &Site) -> Self {
        let uplink = |old: &u8| {
            let name = uplinks.get(usize::from(*old))?;
            Some(site.uplinks.iter().position(|uplink| uplink.name == *name)? as u8)
        };
        let member = |policy: &u8, old: &u8| {
            let name = policies.get(usize::from(*policy))?;
            let at = site.policies.iter().position(|policy| policy.name == *name)?;
            let uplink = uplink(old)?;
            let is_in = site.policies[at].members.iter().any(|member| member.uplink == uplink);
            is_in.then_some((at as u8, uplink))
        };
        let weights = self.weights.iter().filter_map(|(u, weight)| Some((uplink(u)?, *weight)));
        let hands = self.hands.iter().filter_map(|(u, hand)| Some((uplink(u)?, *hand)));
        let members = self.member_weights.iter();
        let members = members.filter_map(|((p, u), weight)| Some((member(p, u)?, *weight)));
        Self {
            weights: weights.collect(),
            member_weights: members.collect(),
            hands: hands.collect(),
        }
    }

    /// Lets time pass: what was to be empty by `now`, CLOCK_BOOTTIME seconds, is drained.
    pub fn expire(&mut self, now: u64) {
        for hand in self.hands.values_mut() {
            if let Hand::Draining(until) = *hand
                && until <= now
            {
                *hand = Hand::Drained(until);
            }
        }
    }
}

/// Flow entries and bucket tables name uplinks by index, which is their order in the file. Does the
/// site keep the order of what is published? The error says what to do.
pub fn check_order(site: &Site, published: &ControlHalf) -> Result<(), String> {
    let names = published.uplinks.iter().map(|u| u.name.as_str()).take_while(|n| !n.is_empty());
    for (index, name) in names.enumerate() {
        let now = site.uplinks.get(index).map(|u| u.name.as_str());
        if now != Some(name) {
            return Err(format!(
                "uplink {} was \"{name}\" and is now {}: flows would change uplinks. Append new \
                 uplinks at the end and keep old ones, if need be with weight 0; or stop weir, \
                 run `weir detach` (flows end) and start it again",
                index + 1,
                now.map_or("missing".to_owned(), |now| format!("\"{now}\"")),
            ));
        }
    }
    Ok(())
}

/// A policy of the first `policies` that has a tier whose weights add up to zero: it would take no
/// flows there.
pub fn weightless(half: &ControlHalf, policies: usize) -> Option<&str> {
    let has_none = |policy: &&weir_wire::layout::control::Policy| {
        let members = policy.members();
        members.iter().map(|m| m.tier).any(|tier| {
            let of_tier = members.iter().filter(|m| m.tier == tier);
            of_tier.map(|m| u32::from(m.weight & MemberLayout::MAX_WEIGHT)).sum::<u32>() == 0
        })
    };
    half.policies.iter().take(policies).find(has_none).map(|policy| policy.name.as_str())
}

/// Everything to be published, but for the bucket tables.
pub struct Published {
    /// The half.
    pub half: Box<ControlHalf>,
    /// What the kernel and the operator say of each uplink, as bits of its state word; a drained
    /// one is both down and draining.
    pub problems: Vec<u32>,
    /// What decides which destinations stay on the gateway.
    pub hosts: hosts::Sources,
    /// Next hops whose hardware address should be asked for.
    pub unresolved: Vec<(u32, Ipv4Addr)>,
}

/// Derives the state; pure. `last` is what was published before, for the numbers of ports.
pub fn derive(
    site: &Site,
    kernel: &Kernel,
    overrides: &Overrides,
    since: &[u64],
    last: Option<&ControlHalf>,
) -> Published {
    let mut half = empty_half();
    half.config_hash = site.hash;
    half.on_dataplane_loss = site.on_dataplane_loss as u8;
    half.default_policy = site.default_policy;
    half.workers = site.workers;
    half.timeouts = site.timeouts;
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

    let lans = lan_nets(site, kernel, &lan_ports);
    for (index, (net, port)) in lans.iter().enumerate() {
        half.lan_prefixes[index] = prefix(net);
        half.lan_prefix_ports[index] = port.unwrap_or(NONE);
    }
    let lan_nets: Vec<Ipv4Net> = lans.into_iter().map(|(net, _)| net).collect();
    half.lan_prefix_count = lan_nets.len() as u32;

    let mut problems = Vec::new();
    let mut unresolved = Vec::new();
    for (index, (uplink, port)) in site.uplinks.iter().zip(&uplink_ports).enumerate() {
        let link = kernel.link(&uplink.interface);
        let mut found = one_uplink(
            &mut half.uplinks[index],
            uplink,
            site.nat_ports,
            link,
            kernel,
            overrides,
            index as u8,
            &mut unresolved,
        );
        half.uplinks[index].port = port.unwrap_or(NONE);
        half.uplinks[index].since = since.get(index).copied().unwrap_or(0);
        if port.is_none() {
            found |= match ports::usable(&uplink.interface, kernel) {
                Ok(_) | Err(DeviceFault::Missing) => uplink_state::NO_CARRIER,
                Err(_) => uplink_state::NO_DEVICE,
            };
        }
        if link.is_some_and(|link| site::clashes(uplink, link, kernel, &lan_nets)) {
            found |= uplink_state::NO_ADDRESS;
        }
        problems.push(found);
    }
    policies(&mut half, site, overrides);
    rules(&mut half, site, &lan_ports);
    let hosts = hosts::Sources::of(site, kernel, lan_nets, &half);
    Published { half, problems, hosts, unresolved }
}

/// The prefixes of all LANs, given or connected, and the port of each.
fn lan_nets(site: &Site, kernel: &Kernel, lan_ports: &[Option<u8>]) -> Vec<(Ipv4Net, Option<u8>)> {
    let mut nets = Vec::new();
    for (lan, port) in site.lans.iter().zip(lan_ports) {
        nets.extend(lan.networks(kernel).into_iter().map(|net| (net, *port)));
    }
    nets.truncate(MAX_LAN_PREFIXES);
    nets
}

#[expect(clippy::too_many_arguments, reason = "one uplink from all that is known of it")]
fn one_uplink(
    slot: &mut UplinkLayout,
    uplink: &Uplink,
    nat_ports: (u16, u16),
    link: Option<&Link>,
    kernel: &Kernel,
    overrides: &Overrides,
    index: u8,
    unresolved: &mut Vec<(u32, Ipv4Addr)>,
) -> u32 {
    slot.name = Name::new(&uplink.name);
    slot.translate = uplink.translate as u8;
    slot.inbound = uplink.inbound.into();
    slot.weight = overrides.weights.get(&index).copied().unwrap_or(uplink.weight);
    slot.weight_overridden = u8::from(overrides.weights.contains_key(&index));
    (slot.nat_lo, slot.nat_hi) = nat_ports;
    let hand = overrides.hands.get(&index);
    slot.drain_until = match hand {
        Some(Hand::Draining(until) | Hand::Drained(until)) => *until,
        Some(Hand::Down) | None => 0,
    };
    let mut problems = hand.map_or(0, |hand| hand.bits());
    let Some(link) = link else { return problems | uplink_state::NO_CARRIER };
    if !link.running {
        problems |= uplink_state::NO_CARRIER;
    }
    let pool = uplink.pool(link.index, kernel);
    for (to, from) in slot.pool.iter_mut().zip(pool.iter().take(MAX_POOL)) {
        *to = from.octets();
    }
    slot.pool_len = pool.len().min(MAX_POOL) as u8;
    if uplink.translate == Translate::Nat44 && pool.is_empty() {
        problems |= uplink_state::NO_ADDRESS;
    }
    let next_hop = uplink.next_hop_by(link.index, kernel);
    let known = next_hop.and_then(|next_hop| kernel.neighbours.get(&(link.index, next_hop)));
    slot.next_hop = next_hop.map_or([0; 4], |next_hop| next_hop.octets());
    slot.next_hop_mac = known.map_or(Mac::NONE, |known| Mac::new(known.mac));
    if known.is_none() {
        problems |= uplink_state::NO_NEXT_HOP;
    }
    if let Some(next_hop) = next_hop
        && link.running
        // Nobody answers a question that has no address of the link.
        && !kernel.waits_for(link.index)
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
                (Some(weight), _) => weight | MemberLayout::OVERRIDDEN,
                (None, Some(weight)) => weight,
                (None, None) => half.uplinks[usize::from(from.uplink)].weight,
            };
            *to = MemberLayout { uplink: from.uplink, tier: from.tier, weight };
        }
    }
}

fn rules(half: &mut ControlHalf, site: &Site, lan_ports: &[Option<u8>]) {
    half.rule_count = site.rules.len() as u32;
    for (slot, rule) in half.rules.iter_mut().zip(&site.rules) {
        let in_ports = match rule.in_lan {
            None => u64::MAX,
            Some(lan) => lan_ports.get(lan).copied().flatten().map_or(0, |port| 1 << (port & 63)),
        };
        let range = |given: Option<(u16, u16)>| given.map_or([0, u16::MAX], |(lo, hi)| [lo, hi]);
        let net = |given: &Option<Ipv4Net>| given.as_ref().map_or(Prefix::ANY, prefix);
        *slot = RuleLayout {
            name: Name::new(&rule.name),
            in_ports,
            source: net(&rule.source),
            destination: net(&rule.destination),
            protocol: rule.protocol,
            dscp: rule.dscp.unwrap_or(0xff),
            policy: rule.policy,
            reserved0: 0,
            source_ports: range(rule.source_ports),
            destination_ports: range(rule.destination_ports),
            reserved1: [0; 28],
        };
    }
}

fn prefix(net: &Ipv4Net) -> Prefix {
    Prefix::v4(net.network().octets(), net.prefix_len())
}

/// The members of a published policy, with the weights that were configured or set.
fn members(policy: &weir_wire::layout::control::Policy) -> Vec<Member> {
    let member = |m: &MemberLayout| Member {
        uplink: m.uplink,
        tier: m.tier,
        weight: m.weight & MemberLayout::MAX_WEIGHT,
    };
    policy.members().iter().map(member).collect()
}

/// The bucket tables of all policies, with their memory.
#[derive(Default)]
pub struct Tables {
    policies: Vec<Buckets>,
}

impl Tables {
    /// What an earlier control process left, for a site of the same file.
    pub fn adopt(site: &Site, region: &ControlRegion, snapshot: &Snapshot) -> Self {
        if snapshot.half.config_hash != site.hash {
            return Self::default();
        }
        let home = |policy: usize| {
            let bank = weir_wire::layout::control::HOME_BANK;
            match snapshot.half.policies[policy].active_tier {
                0 => Buckets::default(),
                tier => Buckets::adopt(tier, region.bank(bank, policy)),
            }
        };
        Self { policies: (0..site.policies.len()).map(home).collect() }
    }

    /// Brings the tables up to date with the half's members. `takers` has for each policy the
    /// uplinks that health lets take new flows, a bit for each; `place` says what load makes of
    /// them, given the policy, its members and its takers. Says whether a live table changed.
    pub fn update(
        &mut self,
        half: &mut ControlHalf,
        takers: &[u64],
        mut place: impl FnMut(usize, &[Member], u64) -> Placement,
    ) -> bool {
        self.policies.resize_with(takers.len(), Buckets::default);
        let mut changed = false;
        let policies = self.policies.iter_mut().zip(&mut half.policies);
        for (index, ((buckets, policy), takers)) in policies.zip(takers).enumerate() {
            let mut members = members(policy);
            let placement = place(index, &members, *takers);
            for (member, weight) in members.iter_mut().zip(placement.weights) {
                member.weight = weight;
            }
            changed |= buckets.update(&members, placement.takers);
            policy.active_tier = buckets.active_tier().unwrap_or(0);
            policy.heavy = placement.heavy.unwrap_or(NONE);
        }
        changed
    }

    /// Live table of each policy.
    pub fn live(&self) -> Vec<&BucketTable> {
        self.policies.iter().map(Buckets::live).collect()
    }

    /// Home table of each policy that has one.
    pub fn homes(&self) -> impl Iterator<Item = (usize, &BucketTable)> {
        self.policies.iter().enumerate().filter_map(|(index, b)| Some((index, b.home()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn site(uplinks: &[&str]) -> Site {
        let mut text = "[[lan]]\ninterface = \"lan0\"\n".to_owned();
        for (index, name) in uplinks.iter().enumerate() {
            text += &format!("[[uplink]]\nname = \"{name}\"\ninterface = \"wan{index}\"\n");
        }
        crate::site::parse("weir.toml", &text).unwrap()
    }

    fn published(uplinks: &[&str]) -> Box<ControlHalf> {
        derive(&site(uplinks), &Kernel::default(), &Overrides::default(), &[], None).half
    }

    #[test]
    fn uplinks_may_be_appended() {
        assert_eq!(check_order(&site(&["a", "b", "c"]), &published(&["a", "b"])), Ok(()));
        assert_eq!(check_order(&site(&["a"]), &published(&["a"])), Ok(()));
    }

    #[test]
    fn uplinks_are_not_removed_or_reordered_under_their_flows() {
        let gone = check_order(&site(&["a"]), &published(&["a", "b"])).unwrap_err();
        assert!(gone.contains("uplink 2 was \"b\" and is now missing"), "{gone}");
        let swapped = check_order(&site(&["b", "a"]), &published(&["a", "b"])).unwrap_err();
        assert!(swapped.contains("uplink 1 was \"a\" and is now \"b\""), "{swapped}");
    }

    #[test]
    fn what_is_set_by_hand_is_found_again_by_the_next_process() {
        let site = site(&["a", "b", "c", "d"]);
        let region = ControlRegion::anonymous().unwrap();
        let mut writer = weir_shm::control::ControlWriter::new(region.clone());
        let mut overrides = Overrides::default();
        let forever = UplinkLayout::NO_DEADLINE;
        overrides.hands.insert(1, Hand::Down);
        overrides.hands.insert(2, Hand::Draining(1000));
        overrides.hands.insert(3, Hand::Draining(forever));
        overrides.weights.insert(0, 7);
        overrides.expire(999);
        assert_eq!(overrides.hands[&2], Hand::Draining(1000));
        let mut published = derive(&site, &Kernel::default(), &overrides, &[], None);
        for (index, problems) in published.problems.iter().enumerate() {
            writer.set_uplink_state(index as u8, problems & !uplink_state::DRAINING);
        }
        let mut tables = Tables::default();
        tables.update(&mut published.half, &[0b0001], Placement::plain);
        writer.publish(&mut published.half, &tables.live());
        let mut found = Overrides::adopt(&site, &region, &region.snapshot().unwrap());
        assert_eq!(found, overrides);
        found.expire(1000);
        assert_eq!(found.hands[&2], Hand::Drained(1000));
        assert_eq!(found.hands[&3], Hand::Draining(forever));
    }

    #[test]
    fn what_is_set_by_hand_goes_by_names_when_the_file_changes() {
        let mut overrides = Overrides::default();
        overrides.weights.insert(1, 7);
        overrides.hands.extend([(0, Hand::Down), (1, Hand::Draining(9))]);
        overrides.member_weights.extend([((0, 1), 3), ((1, 0), 4), ((1, 1), 5)]);
        let file = "[[lan]]\ninterface = \"lan0\"\n\
            [[uplink]]\nname = \"lte\"\ninterface = \"wan1\"\n\
            [[policy]]\nname = \"voice\"\n\
            [[policy]]\nname = \"all\"\n";
        let site = crate::site::parse("weir.toml", file).unwrap();
        let carried = overrides.carry(&["fiber", "lte"], &["all", "gone"], &site);
        assert_eq!(carried.weights, [(0, 7)].into());
        assert_eq!(carried.hands, [(0, Hand::Draining(9))].into());
        assert_eq!(carried.member_weights, [((1, 0), 3)].into());
    }

    #[test]
    fn an_uplink_without_its_interface_is_down_and_says_why() {
        let published = derive(&site(&["a"]), &Kernel::default(), &Overrides::default(), &[], None);
        assert_eq!(published.problems, [uplink_state::NO_CARRIER]);
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
        let found = derive(&site(&["a", "b"]), &kernel, &Overrides::default(), &[], None);
        let down = found.problems.iter().map(|p| p & uplink_state::NO_DEVICE != 0);
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
        let published = derive(&site(&["a", "b"]), &kernel, &Overrides::default(), &[], None);
        let unusable = published.problems.iter().map(|p| p & uplink_state::NO_ADDRESS != 0);
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
        let site = crate::site::parse("weir.toml", text).unwrap();
        let half = derive(&site, &kernel, &Overrides::default(), &[], None).half;
        let behind = |source| (0..=NONE).filter(|port| half.is_behind(*port, source)).collect();
        let ports: [Vec<u8>; 5] =
            [[10, 1, 0, 9], [10, 2, 0, 9], [10, 3, 0, 9], [10, 4, 0, 9], [10, 5, 0, 9]].map(behind);
        assert_eq!(ports, [vec![0], vec![1], vec![1], vec![NONE], vec![]]);
    }

    #[test]
    fn tables_that_change_while_the_half_does_not_are_noticed() {
        let mut half = published(&["fiber", "lte"]);
        let mut tables = Tables::default();
        assert!(tables.update(&mut half, &[0b11], Placement::plain));
        let before = half.clone();
        assert!(tables.update(&mut half, &[0b01], Placement::plain));
        assert_eq!(half.as_bytes(), before.as_bytes());
        assert!(!tables.update(&mut half, &[0b01], Placement::plain));
    }
}
