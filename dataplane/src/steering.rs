//! Choosing an uplink for a new flow: rules, then buckets.

use std::cell::OnceCell;

use weir_layout::NONE;
use weir_layout::control::{
    ControlHalf, IpAddress, Member, PathId, Policy, Rule, RuleAction, RuleFrom, SetTest, Sets,
    path_state,
};
use weir_layout::set::IndexSet;
use weir_wire::bucket::{self, TRIES};
use weir_wire::family::{Family, V4};
use weir_wire::icmp;

use weir_shm::control::ControlRegion;

use crate::selection;

/// The fields of a packet that rules and buckets look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic<F: Family = V4> {
    /// Whose it is: rules are about hosts of LANs, or about uplinks.
    pub from: RuleFrom,
    /// Port it came in by.
    pub in_port: u8,
    /// The LAN host that sends it, or the router that the host is behind: the word of its adjacency.
    /// Of what an uplink brings nobody asks.
    pub host: u64,
    /// Source address, network order.
    pub src: F::Address,
    /// Destination address, network order.
    pub dst: F::Address,
    /// Source port, host order; echo: identifier.
    pub sport: u16,
    /// Destination port, host order; echo: type.
    pub dport: u16,
    /// IP protocol.
    pub proto: u8,
    /// Differentiated services code point.
    pub dscp: u8,
    /// Flow label (RFC 6437); 0: it has none, or it is not known.
    pub label: u32,
}

/// What the rules say of a packet that would begin a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The number of the rule; none: none matches.
    pub rule: Option<u8>,
    /// What becomes of the packet.
    pub action: RuleAction,
    /// The policy that steers it, if it is let through.
    pub policy: u8,
}

/// What the first rule that matches says; where none does, that the default policy steers. Where the
/// sets that a rule asks for are those of another state, its packet is dropped.
pub fn ruling<F: Family>(
    half: &ControlHalf,
    region: &ControlRegion,
    traffic: &Traffic<F>,
) -> Ruling {
    let ends = Ends::of(half, region, traffic);
    match first(half, &ends, |rule| matches(rule, traffic)) {
        Ok(first) => of_rule(half, first),
        Err((number, rule)) => {
            Ruling { rule: Some(number), action: RuleAction::Drop, policy: rule.policy }
        }
    }
}

/// The same of traffic whose code point is not known; `None` where that decides, or sets that are
/// those of another state.
pub fn ruling_by_address<F: Family>(
    half: &ControlHalf,
    region: &ControlRegion,
    traffic: &Traffic<F>,
) -> Option<Ruling> {
    let may = |rule: &Rule| matches(rule, &Traffic { dscp: rule.dscp, ..*traffic });
    let first = first(half, &Ends::of(half, region, traffic), may).ok()?;
    let open = first.is_some_and(|(_, rule)| rule.dscp != 0xff);
    (!open).then(|| of_rule(half, first))
}

/// A rule, and its number.
type Numbered<'h> = (u8, &'h Rule);

/// The first rule of which this holds and whose sets do. An error: one of which that cannot be told.
fn first<'h, F: Family>(
    half: &'h ControlHalf,
    ends: &Ends<'_, F>,
    may: impl Fn(&Rule) -> bool,
) -> Result<Option<Numbered<'h>>, Numbered<'h>> {
    for (number, rule) in (0..).zip(half.rules()).filter(|(_, rule)| may(rule)) {
        match ends.pass(rule) {
            Some(true) => return Ok(Some((number, rule))),
            Some(false) => {}
            None => return Err((number, rule)),
        }
    }
    Ok(None)
}

/// The sets that hold a packet's ends: looked up once, and only where a rule asks.
struct Ends<'a, F: Family> {
    sets: &'a Sets,
    region: &'a ControlRegion,
    traffic: &'a Traffic<F>,
    source: OnceCell<Option<u64>>,
    destination: OnceCell<Option<u64>>,
}

impl<'a, F: Family> Ends<'a, F> {
    fn of(half: &'a ControlHalf, region: &'a ControlRegion, traffic: &'a Traffic<F>) -> Self {
        let sets = &half.sets;
        Self { sets, region, traffic, source: OnceCell::new(), destination: OnceCell::new() }
    }

    /// Do both pass the sets of a rule? `None`: that cannot be told.
    #[inline]
    fn pass(&self, rule: &Rule) -> Option<bool> {
        let (source, destination) = (rule.source_set, rule.destination_set);
        Some(
            self.passes(source, &self.source, self.traffic.src)?
                && self.passes(destination, &self.destination, self.traffic.dst)?,
        )
    }

    #[inline]
    fn passes(
        &self,
        test: SetTest,
        known: &OnceCell<Option<u64>>,
        address: F::Address,
    ) -> Option<bool> {
        if test == SetTest::ANY {
            return Some(true);
        }
        let sets = known.get_or_init(|| self.region.sets_of(self.sets, address));
        sets.map(|sets| test.passes(sets))
    }
}

fn of_rule(half: &ControlHalf, rule: Option<Numbered<'_>>) -> Ruling {
    match rule {
        Some((number, rule)) => {
            Ruling { rule: Some(number), action: rule.action(), policy: rule.policy }
        }
        None => Ruling { rule: None, action: RuleAction::Policy, policy: half.default_policy },
    }
}

/// The policy that steers a flow.
pub fn policy<F: Family>(half: &ControlHalf, region: &ControlRegion, traffic: &Traffic<F>) -> u8 {
    ruling(half, region, traffic).policy
}

/// The same as of [`ruling_by_address`].
pub fn policy_by_address<F: Family>(
    half: &ControlHalf,
    region: &ControlRegion,
    traffic: &Traffic<F>,
) -> Option<u8> {
    ruling_by_address(half, region, traffic).map(|ruling| ruling.policy)
}

fn matches<F: Family>(rule: &Rule, t: &Traffic<F>) -> bool {
    let within = |range: [u16; 2], port: u16| range[0] <= port && port <= range[1];
    let any_port = |range: [u16; 2]| range == [0, u16::MAX];
    // The identifier of an ICMP query is no port: a rule about ports does not match it.
    let ports_match = |range, port| any_port(range) || (t.proto != F::ICMP && within(range, port));
    rule.is_from(t.from)
        && IndexSet::from_bits(rule.in_ports).contains(t.in_port)
        && protocol_matches(rule, t)
        && (rule.dscp == 0xff || rule.dscp == t.dscp)
        && t.src.is_in(&rule.source)
        && t.dst.is_in(&rule.destination)
        && ports_match(rule.source_ports, t.sport)
        && ports_match(rule.destination_ports, t.dport)
}

/// A rule about ICMP is about that of either family.
fn protocol_matches<F: Family>(rule: &Rule, t: &Traffic<F>) -> bool {
    let is_icmp = rule.protocol == icmp::PROTOCOL && t.proto == F::ICMP;
    rule.protocol == 0 || rule.protocol == t.proto || is_icmp
}

/// Why no uplink takes a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The policy has no usable uplink.
    Unreachable,
    /// None as it seems, but the state that is published has one, or a newer one is on its way: with
    /// another batch there may be one.
    Unsettled,
    /// It has, but its providers route nothing to the packet's source by any of them.
    Source,
}

/// Hears what an uplink is chosen by. In the packet's path nobody does: `()`.
pub trait Trace {
    /// A step was taken.
    fn step(&mut self, step: Step);
}

impl Trace for () {
    #[inline(always)]
    fn step(&mut self, _: Step) {}
}

impl Trace for Vec<Step> {
    fn step(&mut self, step: Step) {
        self.push(step);
    }
}

/// A step on the way to an uplink. The last one that names one [takes](Found::Takes) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The flow promises to be heavy: this one has the most room.
    Heavy(u8),
    /// A bucket was looked at: the uplink that it names, which may be [`NONE`].
    Bucket(u16, u8, Found),
    /// Of the members that do it was this one's turn, by weight, as no bucket led to any.
    Member(u8),
    /// Nothing else is left: the last resort.
    Resort(u8),
    /// As [`Self::Member`], of those that translate the source for want of one that carries it.
    Rescue(u8),
}

/// What an uplink that a bucket names is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It takes the flow.
    Takes,
    /// It is down, or the bucket names none.
    Down,
    /// Its provider does not route the source back.
    Source,
    /// It is what the policy is left with, if there is no other.
    Spared,
}

/// The uplink of a new flow under a policy, its last resort if no member is usable. One that may carry
/// the packet's source, see [`ControlHalf::carries`], else one that [rescues](ControlHalf::rescues) it.
pub fn uplink<F: Family>(
    half: &ControlHalf,
    region: &ControlRegion,
    key: [u64; 2],
    policy: u8,
    traffic: &Traffic<F>,
) -> Result<u8, Refusal> {
    traced_uplink(half, region, key, policy, traffic, &mut ())
}

/// The same, heard by `trace`.
pub fn traced_uplink<F: Family>(
    half: &ControlHalf,
    region: &ControlRegion,
    key: [u64; 2],
    policy: u8,
    traffic: &Traffic<F>,
    trace: &mut impl Trace,
) -> Result<u8, Refusal> {
    let index = usize::from(policy);
    let is_used =
        |policy: &&Policy| policy.member_count != 0 && policy.steering(F::FAMILY).has_table != 0;
    let policy = half.policies.get(index).filter(is_used).ok_or(Refusal::Unreachable)?;
    let mut hash = selection::hash(half, key, policy, traffic);
    let path = |uplink| PathId::new(uplink, F::FAMILY);
    let (mut resort, mut barred) = (None, false);
    for _ in 0..TRIES {
        // None for a worker that was held up in a batch while two states were published.
        let number = bucket::of(hash);
        let uplink = region.bucket(half.epoch, F::FAMILY, index, number);
        let uplink = uplink.ok_or(Refusal::Unsettled)?;
        let state = if uplink == NONE { 0 } else { region.path_state(path(uplink)) };
        let serves = state & (path_state::USABLE | path_state::SPARED) != 0;
        if serves && !half.carries(path(uplink), traffic.src) {
            trace.step(Step::Bucket(number, uplink, Found::Source));
            barred = true;
        } else if state & path_state::USABLE != 0 {
            trace.step(Step::Bucket(number, uplink, Found::Takes));
            return Ok(uplink);
        } else if serves {
            trace.step(Step::Bucket(number, uplink, Found::Spared));
            resort.get_or_insert(uplink);
        } else {
            trace.step(Step::Bucket(number, uplink, Found::Down));
        }
        hash = bucket::next(key, hash);
    }
    let refused = |refusal| if barred { Refusal::Source } else { refusal };
    let by_weight = member(region, policy, F::FAMILY, hash, |p| half.carries(p, traffic.src));
    let (step, uplink) = match (by_weight, resort) {
        (Ok(uplink), _) => (Step::Member(uplink), uplink),
        (Err(_), Some(uplink)) => (Step::Resort(uplink), uplink),
        (Err(refusal), None) => match refused(refusal) {
            Refusal::Source => {
                let rescues = |path| half.rescues(path, traffic.src);
                let uplink = member(region, policy, F::FAMILY, hash, rescues)?;
                (Step::Rescue(uplink), uplink)
            }
            refusal => return Err(refusal),
        },
    };
    trace.step(step);
    Ok(uplink)
}

/// Another usable member of the policy that may carry the packet's source, for a new flow that those
/// of `full` have no port for: as where no bucket names one. None that is being emptied, or of a worse
/// tier, from where the flow would be brought home.
pub fn another<F: Family>(
    half: &ControlHalf,
    region: &ControlRegion,
    key: [u64; 2],
    policy: u8,
    traffic: &Traffic<F>,
    full: IndexSet,
) -> Option<u8> {
    let policy = half.policies.get(usize::from(policy))?;
    let hash = selection::hash(half, key, policy, traffic);
    let takes = |path: PathId| {
        !full.contains(path.uplink)
            && takes_new(region, path)
            && !is_away(policy, path)
            && half.carries(path, traffic.src)
    };
    member(region, policy, F::FAMILY, hash, takes).ok()
}

/// A usable member by its weight, where no bucket names one: of the best tier, and before those that
/// are worse or being emptied. Buckets are those of the usable members of one tier, and a source may
/// be another's: `takes` says which paths take it.
fn member(
    region: &ControlRegion,
    policy: &Policy,
    family: weir_layout::Family,
    hash: u64,
    takes: impl Fn(PathId) -> bool,
) -> Result<u8, Refusal> {
    const WORSE: u32 = path_state::DEGRADED | path_state::DRAINING;
    let weight = |member: &Member| u64::from(member.weight & Member::MAX_WEIGHT);
    let (mut best, mut among, mut total) = (None, IndexSet::EMPTY, 0);
    let mut refusal = match policy.steering(family).active_tier {
        0 => Refusal::Unreachable,
        _ => Refusal::Unsettled,
    };
    for member in policy.members().iter().filter(|member| weight(member) != 0) {
        let path = PathId::new(member.uplink, family);
        let state = region.path_state(path);
        let rank = (state & WORSE, member.tier);
        if state & path_state::USABLE == 0 {
            continue;
        }
        if !takes(path) {
            refusal = Refusal::Source;
            continue;
        }
        if best.is_some_and(|best| best < rank) {
            continue;
        }
        if best != Some(rank) {
            (best, among, total) = (Some(rank), IndexSet::EMPTY, 0);
        }
        among.set(member.uplink, true);
        total += weight(member);
    }
    let mut share = ((u128::from(hash) * u128::from(total)) >> 64) as u64;
    let mut members = policy.members().iter().filter(|member| among.contains(member.uplink));
    let falls_to = |member: &&Member| match share.checked_sub(weight(member)) {
        Some(rest) => {
            share = rest;
            false
        }
        None => true,
    };
    members.find(falls_to).map(|member| member.uplink).ok_or(refusal)
}

/// May flows use the path, whatever their policy?
#[inline]
pub fn usable(region: &ControlRegion, path: PathId) -> bool {
    region.path_state(path) & path_state::USABLE != 0
}

/// Is the path usable, and not being emptied?
pub fn takes_new(region: &ControlRegion, path: PathId) -> bool {
    let state = region.path_state(path);
    state & path_state::USABLE != 0 && state & path_state::DRAINING == 0
}

/// Is the path what some policy is left with? Which one, its buckets say.
pub fn spared(region: &ControlRegion, path: PathId) -> bool {
    region.path_state(path) & path_state::SPARED != 0
}

/// Is the path of a worse tier than the one that takes the policy's new flows?
pub fn is_away(policy: &Policy, path: PathId) -> bool {
    let member = policy.members().iter().find(|member| member.uplink == path.uplink);
    let active = policy.steering(path.family).active_tier;
    active != 0 && member.is_some_and(|member| member.tier > active)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_layout::control::{BUCKETS, Name, PathPrefix, Prefix, Selection, Translate};
    use weir_layout::prefix_sets::Ranges;
    use weir_shm::adjacencies::NextHops;
    use weir_shm::control::{ControlWriter, Snapshot, empty_half};
    use weir_wire::family::V6;
    use weir_wire::tcp;

    const UDP: u8 = 17;
    const KEY: [u64; 2] = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];

    fn traffic() -> Traffic {
        Traffic {
            from: RuleFrom::Lan,
            in_port: 0,
            host: 7,
            src: [10, 77, 1, 5],
            dst: [198, 51, 100, 1],
            sport: 40_000,
            dport: 443,
            proto: tcp::PROTOCOL,
            dscp: 0,
            label: 0,
        }
    }

    /// A region with two NAT uplinks, each with half of the buckets.
    fn two_uplinks(selection: Selection) -> (ControlWriter, Box<Snapshot>) {
        let mut writer =
            ControlWriter::new(ControlRegion::anonymous().unwrap(), NextHops::anonymous().unwrap());
        let mut half = empty_half();
        for uplink in 0..2u8 {
            half.uplinks[usize::from(uplink)].path_mut(V4::FAMILY).translate =
                Translate::Napt as u8;
            half.policies[0].members[usize::from(uplink)] = Member { uplink, tier: 1, weight: 1 };
            writer.set_path_state(PathId::v4(uplink), path_state::USABLE);
        }
        half.policies[0].name = Name::new("both");
        half.policies[0].member_count = 2;
        half.policies[0].selection = selection as u8;
        let mut table = [0; BUCKETS];
        table[BUCKETS / 2..].fill(1);
        writer.publish(&mut half, [&[&table], &[]]);
        let snapshot = writer.region().snapshot().unwrap();
        (writer, snapshot)
    }

    fn chosen(selection: Selection, traffic: impl Iterator<Item = Traffic>) -> [usize; 2] {
        let (writer, snapshot) = two_uplinks(selection);
        let mut count = [0; 2];
        for t in traffic {
            count[usize::from(uplink(&snapshot.half, writer.region(), KEY, 0, &t).unwrap())] += 1;
        }
        count
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let region = ControlRegion::anonymous().unwrap();
        let mut half = empty_half();
        half.default_policy = 9;
        half.rules[0] = Rule { protocol: UDP, ..Rule::any(1) };
        half.rules[1] = Rule { destination_ports: [443, 443], ..Rule::any(2) };
        half.rules[2] = Rule::any(3);
        half.rule_count = 3;
        assert_eq!(policy(&half, &region, &traffic()), 2);
        assert_eq!(policy(&half, &region, &Traffic { proto: UDP, ..traffic() }), 1);
        assert_eq!(policy(&half, &region, &Traffic { dport: 80, ..traffic() }), 3);
        half.rule_count = 2;
        assert_eq!(policy(&half, &region, &Traffic { dport: 80, ..traffic() }), 9);
    }

    #[test]
    fn a_rule_about_uplinks_is_not_about_lans_and_the_reverse() {
        let mut half = empty_half();
        half.rules[0] = Rule { from: RuleFrom::Uplink as u8, ..Rule::any(1) };
        half.rules[1] = Rule::any(2);
        half.rule_count = 2;
        let region = ControlRegion::anonymous().unwrap();
        let of = |from| ruling(&half, &region, &Traffic { from, ..traffic() }).rule;
        assert_eq!([RuleFrom::Uplink, RuleFrom::Lan].map(of), [Some(0), Some(1)]);
    }

    #[test]
    fn a_rule_that_denies_is_found_by_its_number() {
        let region = ControlRegion::anonymous().unwrap();
        let mut half = empty_half();
        half.rules[0] = Rule { protocol: UDP, ..Rule::any(1) };
        half.rules[1] =
            Rule { destination_ports: [25, 25], action: RuleAction::Reject as u8, ..Rule::any(0) };
        half.rule_count = 2;
        let denied = ruling(&half, &region, &Traffic { dport: 25, ..traffic() });
        assert_eq!((denied.rule, denied.action), (Some(1), RuleAction::Reject));
        let steered = ruling(&half, &region, &Traffic { proto: UDP, dport: 25, ..traffic() });
        assert_eq!(
            (steered.rule, steered.action, steered.policy),
            (Some(0), RuleAction::Policy, 1)
        );
        assert_eq!(ruling(&half, &region, &traffic()).rule, None);
    }

    #[test]
    fn where_the_sets_that_a_rule_asks_for_are_gone_its_packet_is_dropped_and_no_flow_judged() {
        let mut writer =
            ControlWriter::new(ControlRegion::anonymous().unwrap(), NextHops::anonymous().unwrap());
        let mut half = empty_half();
        let destination_set = SetTest::new(0, true);
        half.rules[0] = Rule { protocol: UDP, destination_set, ..Rule::any(1) };
        (half.rule_count, half.default_policy) = (1, 9);
        writer.enter_sets(&Ranges { firsts4: &[0], masks4: &[2], ..Ranges::default() });
        writer.publish(&mut half, [&[], &[]]);
        let (region, udp) = (writer.region().clone(), Traffic { proto: UDP, ..traffic() });
        assert_eq!((policy(&half, &region, &udp), policy(&half, &region, &traffic())), (1, 9));
        let mut next = half.clone();
        for set in [4, 8] {
            writer.enter_sets(&Ranges { firsts4: &[0], masks4: &[set], ..Ranges::default() });
            writer.publish(&mut next, [&[], &[]]);
        }
        let gone = ruling(&half, &region, &udp);
        assert_eq!((gone.rule, gone.action), (Some(0), RuleAction::Drop));
        assert_eq!(ruling_by_address(&half, &region, &udp), None);
        assert_eq!(policy(&half, &region, &traffic()), 9, "which asks for none");
    }

    #[test]
    fn each_criterion_of_a_rule_can_refuse() {
        let hit = |rule: Rule| matches(&rule, &traffic());
        assert!(hit(Rule::any(0)));
        assert!(hit(Rule { in_ports: 1, ..Rule::any(0) }));
        assert!(!hit(Rule { in_ports: 2, ..Rule::any(0) }));
        assert!(hit(Rule { source: Prefix::v4([10, 77, 0, 0], 16), ..Rule::any(0) }));
        assert!(!hit(Rule { source: Prefix::v4([10, 78, 0, 0], 16), ..Rule::any(0) }));
        assert!(!hit(Rule { destination: Prefix::v4([198, 51, 100, 2], 32), ..Rule::any(0) }));
        assert!(!hit(Rule { dscp: 46, ..Rule::any(0) }));
        assert!(!hit(Rule { source_ports: [1, 1023], ..Rule::any(0) }));
    }

    #[test]
    fn without_the_code_point_a_rule_about_it_leaves_the_policy_open() {
        let region = ControlRegion::anonymous().unwrap();
        let mut half = empty_half();
        half.rules[0] = Rule { dscp: 46, destination_ports: [5060, 5060], ..Rule::any(1) };
        (half.rule_count, half.default_policy) = (1, 2);
        let to = |dport| policy_by_address(&half, &region, &Traffic { dport, ..traffic() });
        assert_eq!((to(5060), to(443)), (None, Some(2)));
        half.rules[0].dscp = 0xff;
        assert_eq!(
            policy_by_address(&half, &region, &Traffic { dport: 5060, ..traffic() }),
            Some(1)
        );
    }

    #[test]
    fn an_icmp_identifier_is_no_port() {
        let ping = Traffic { proto: V4::ICMP, sport: 443, dport: 443, ..traffic() };
        assert!(!matches(&Rule { destination_ports: [443, 443], ..Rule::any(0) }, &ping));
        assert!(matches(&Rule::any(0), &ping));
    }

    #[test]
    fn a_rule_about_icmp_is_about_that_of_either_family() {
        let rule = |protocol| Rule { protocol, ..Rule::any(0) };
        let v4 = Traffic { proto: V4::ICMP, ..traffic() };
        let v6 = Traffic::<V6> {
            from: RuleFrom::Lan,
            in_port: 0,
            host: 7,
            src: [1; 16],
            dst: [2; 16],
            sport: 7,
            dport: 7,
            proto: V6::ICMP,
            dscp: 0,
            label: 0,
        };
        assert!(matches(&rule(1), &v4) && matches(&rule(1), &v6));
        assert!(!matches(&rule(58), &v4) && matches(&rule(58), &v6));
        assert!(!matches(&rule(6), &v6));
    }

    #[test]
    fn flows_spread_by_the_buckets() {
        let flows = (0..10_000u16).map(|n| Traffic { sport: n, ..traffic() });
        let [a, b] = chosen(Selection::Flow, flows);
        assert!(a.abs_diff(b) < 400, "{a} {b}");
    }

    #[test]
    fn a_source_and_destination_keep_their_uplink() {
        let flows = (0..1000u16).map(|n| Traffic { sport: n, ..traffic() });
        let count = chosen(Selection::SourceDestination, flows);
        assert!(count.contains(&1000));
        let sites = (0..1000u32).map(|n| Traffic { dst: n.to_be_bytes(), ..traffic() });
        assert!(chosen(Selection::SourceDestination, sites).iter().all(|n| *n > 400));
    }

    #[test]
    fn a_udp_endpoint_behind_nat_keeps_its_uplink_whatever_it_talks_to() {
        for selection in [Selection::Flow, Selection::SourceDestination, Selection::Source] {
            let flows = (0..1000u32).map(|n| Traffic {
                dst: n.to_be_bytes(),
                dport: n as u16,
                proto: UDP,
                ..traffic()
            });
            assert!(chosen(selection, flows).contains(&1000), "{selection:?}");
        }
    }

    #[test]
    fn all_that_a_host_sends_takes_one_uplink_whatever_its_address() {
        let flows = (0..1000u32).map(|n| Traffic {
            src: [10, 77, (n >> 8) as u8, n as u8],
            dst: n.to_be_bytes(),
            sport: n as u16,
            proto: if n % 2 == 0 { UDP } else { tcp::PROTOCOL },
            ..traffic()
        });
        assert!(chosen(Selection::Host, flows).contains(&1000));
        let hosts = (0..10_000u64).map(|host| Traffic { host, ..traffic() });
        let [a, b] = chosen(Selection::Host, hosts);
        assert!(a.abs_diff(b) < 400, "{a} {b}");
    }

    #[test]
    fn udp_endpoints_spread_by_the_buckets() {
        let flows = (0..10_000u16).map(|n| Traffic { sport: n, proto: UDP, ..traffic() });
        let [a, b] = chosen(Selection::Flow, flows);
        assert!(a.abs_diff(b) < 400, "{a} {b}");
    }

    #[test]
    fn an_uplink_that_just_went_down_takes_no_new_flow() {
        let (writer, snapshot) = two_uplinks(Selection::Flow);
        writer.set_path_state(PathId::v4(0), 0);
        let choose = |n| {
            let t = Traffic { sport: n, ..traffic() };
            uplink(&snapshot.half, writer.region(), KEY, 0, &t)
        };
        assert!((0..1000).all(|n| choose(n) == Ok(1)));
        writer.set_path_state(PathId::v4(1), 0);
        assert!((0..1000).all(|n| choose(n) == Err(Refusal::Unreachable)));
    }

    #[test]
    fn a_member_that_no_bucket_names_yet_takes_the_flows_of_one_that_went_down() {
        let (mut writer, Snapshot { mut half, .. }) = {
            let (writer, snapshot) = two_uplinks(Selection::Flow);
            (writer, *snapshot)
        };
        let choose = |writer: &ControlWriter, half: &ControlHalf, n| {
            uplink(half, writer.region(), KEY, 0, &Traffic { sport: n, ..traffic() })
        };
        half.policies[0].members[1].tier = 2;
        half.policies[0].steering_mut(V4::FAMILY).active_tier = 1;
        writer.publish(&mut half, [&[&[0; BUCKETS]], &[]]);
        assert!((0..1000).all(|n| choose(&writer, &half, n) == Ok(0)));
        writer.set_path_state(PathId::v4(0), 0);
        assert!((0..1000).all(|n| choose(&writer, &half, n) == Ok(1)));
        writer.set_path_state(PathId::v4(1), 0);
        let refusal = |half: &ControlHalf| choose(&writer, half, 7);
        assert_eq!(refusal(&half), Err(Refusal::Unsettled), "the published state has one");
        half.policies[0].steering_mut(V4::FAMILY).active_tier = 0;
        assert_eq!(refusal(&half), Err(Refusal::Unreachable));
    }

    const OWN: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// A region with so many IPv6 uplinks of these weights by source, of which `owners` own [`OWN`].
    fn by_source(weights: &[u16], owners: &[u8]) -> (ControlWriter, Box<ControlHalf>) {
        let mut writer =
            ControlWriter::new(ControlRegion::anonymous().unwrap(), NextHops::anonymous().unwrap());
        let mut half = empty_half();
        let policy = &mut half.policies[0];
        (policy.member_count, policy.selection) = (weights.len() as u8, Selection::Flow as u8);
        let (mut table, mut from) = ([0; BUCKETS], 0);
        let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        for (uplink, weight) in (0u8..).zip(weights) {
            policy.members[usize::from(uplink)] = Member { uplink, tier: 1, weight: *weight };
            let to = from + BUCKETS * usize::from(*weight) / total;
            table[from..to].fill(uplink);
            from = to;
            half.uplinks[usize::from(uplink)].path_mut(V6::FAMILY).translate =
                Translate::Source as u8;
            writer.set_path_state(PathId::new(uplink, V6::FAMILY), path_state::USABLE);
        }
        for (entry, uplink) in half.path_prefixes.iter_mut().zip(owners) {
            let unused = PathPrefix::UNUSED;
            *entry = PathPrefix { outside: OWN, outside_len: 48, uplink: *uplink, ..unused };
        }
        half.path_prefix_count = owners.len() as u32;
        writer.publish(&mut half, [&[], &[&table]]);
        (writer, half)
    }

    fn from(src: [u8; 16], sport: u16, dst: u8) -> Traffic<V6> {
        let dst = [0x26, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, dst];
        Traffic {
            from: RuleFrom::Lan,
            in_port: 0,
            host: 7,
            src,
            dst,
            sport,
            dport: 443,
            proto: tcp::PROTOCOL,
            dscp: 0,
            label: 0,
        }
    }

    #[test]
    fn owners_of_a_prefix_share_its_flows_by_weight_whether_buckets_name_them_or_not() {
        for others in [1, 10, 9990] {
            let (writer, half) = by_source(&[5, others, 3, 2], &[0, 2, 3]);
            let mut count = [0; 4];
            for flow in 0..100_000u32 {
                let t = from(OWN, flow as u16, (flow >> 16) as u8);
                let chosen = uplink(&half, writer.region(), KEY, 0, &t);
                assert_eq!(chosen, uplink(&half, writer.region(), KEY, 0, &t), "stable");
                count[usize::from(chosen.unwrap())] += 1;
            }
            for (count, share) in count.iter().zip([50_000i32, 0, 30_000, 20_000]) {
                assert!((count - share).abs() < 1000, "beside {others}: {count} of {share}");
            }
            assert_eq!(count[1], 0, "it owns nothing");
        }
    }

    #[test]
    fn no_source_leaves_by_an_uplink_that_does_not_own_it_whatever_is_usable() {
        let (writer, half) = by_source(&[5, 3, 2], &[1]);
        for usable in 0..8u32 {
            for uplink in 0..3 {
                let state = usable >> uplink & path_state::USABLE;
                writer.set_path_state(PathId::new(uplink, V6::FAMILY), state);
            }
            let expected = match usable {
                0 => Err(Refusal::Unreachable),
                some if some & 2 != 0 => Ok(1),
                _ => Err(Refusal::Source),
            };
            for flow in 0..500 {
                let t = from(OWN, flow, 1);
                assert_eq!(uplink(&half, writer.region(), KEY, 0, &t), expected, "{usable:b}");
            }
        }
    }
}
