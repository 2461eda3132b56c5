//! Why this uplink and none of the others.

use weir_dataplane::engine::Steered;
use weir_dataplane::steering::{Found, Step};
use weir_layout::Family;
use weir_layout::control::{ControlHalf, IpAddress, Member, PathId, Policy, path_state};
use weir_shm::control::ControlRegion;

use crate::explanation::{Uplink, Why};

/// What is asked about: what is published, and a packet's source.
pub(crate) struct Of<'a, A> {
    pub(crate) half: &'a ControlHalf,
    pub(crate) region: &'a ControlRegion,
    pub(crate) family: Family,
    pub(crate) source: A,
}

/// What an uplink that takes a packet was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By<'a> {
    /// The flow is there.
    Flow,
    /// It was chosen so.
    Steered(&'a Steered),
}

impl<A: IpAddress> Of<'_, A> {
    /// Every uplink, of which `taken` has the packet, and the first that could have had it.
    pub(crate) fn uplinks(&self, policy: &Policy, taken: Option<u8>, by: By<'_>) -> Vec<Uplink> {
        let name = |uplink: u8| self.half.uplinks[usize::from(uplink)].name.as_str().to_owned();
        let named = self.half.uplinks.iter().take_while(|uplink| uplink.name.0[0] != 0);
        let why = |number: u8| {
            if taken == Some(number) {
                return why_taken(number, by);
            }
            let first = match by {
                By::Steered(steered) => steered.uplink.ok(),
                By::Flow => None,
            };
            self.why_not(policy, number).unwrap_or_else(|| match taken {
                Some(_) if first == Some(number) => Why::NoPort,
                Some(taken) => Why::Other { uplink: name(taken) },
                None if first == Some(number) => Why::Turn,
                None => Why::Usable,
            })
        };
        (0..)
            .zip(named)
            .map(|(number, _)| Uplink {
                name: name(number),
                takes: taken == Some(number),
                why: why(number),
            })
            .collect()
    }

    /// What keeps an uplink from taking new flows of the policy, if anything does.
    fn why_not(&self, policy: &Policy, uplink: u8) -> Option<Why> {
        let path = PathId::new(uplink, self.family);
        let state = self.region.path_state(path);
        let Some(member) = policy.members().iter().find(|member| member.uplink == uplink) else {
            return Some(Why::NotMember);
        };
        let active = policy.steering(self.family).active_tier;
        if state & path_state::NOT_CONFIGURED != 0 {
            Some(Why::NoPath)
        } else if state & path_state::USABLE == 0 {
            Some(Why::Down { state: words(state) })
        } else if state & path_state::DRAINING != 0 {
            Some(Why::Draining)
        } else if member.weight & Member::MAX_WEIGHT == 0 {
            Some(Why::NoWeight)
        } else if active != 0 && member.tier > active {
            Some(Why::WorseTier { tier: member.tier, active })
        } else {
            (!self.half.carries(path, self.source)).then_some(Why::ForeignSource)
        }
    }
}

fn why_taken(uplink: u8, by: By<'_>) -> Why {
    let By::Steered(steered) = by else { return Why::Flow };
    if steered.mapping == Some(uplink) {
        return Why::Mapping;
    }
    if steered.uplink != Ok(uplink) {
        return Why::NoPortBefore;
    }
    match steered.steps.last() {
        Some(Step::Heavy(_)) => Why::Heavy,
        Some(Step::Bucket(bucket, _, _)) => Why::Bucket { bucket: *bucket },
        Some(Step::Member(_)) => Why::Weight,
        Some(Step::Resort(_)) => Why::LastResort,
        Some(Step::Rescue(_)) => Why::Rescue,
        None => Why::Flow,
    }
}

/// The buckets that were looked at.
pub(crate) fn buckets(steered: &Steered) -> Vec<u16> {
    let of = |step: &Step| match step {
        Step::Bucket(bucket, _, Found::Takes | Found::Down | Found::Source | Found::Spared) => {
            Some(*bucket)
        }
        _ => None,
    };
    steered.steps.iter().filter_map(of).collect()
}

/// What the bits of a state that is not usable say.
fn words(state: u32) -> Vec<&'static str> {
    const WORDS: [(u32, &str); 9] = [
        (path_state::ADMIN_DOWN, "by hand"),
        (path_state::NO_CARRIER, "no carrier"),
        (path_state::NO_DEVICE, "no device"),
        (path_state::NO_ADDRESS, "no address"),
        (path_state::NO_NEXT_HOP, "no next hop"),
        (path_state::UNHEALTHY, "its targets do not answer"),
        (path_state::HELD_DOWN, "held down after flapping"),
        (path_state::DRAINING, "being emptied"),
        (path_state::SPARED, "kept as the last resort"),
    ];
    let said: Vec<_> =
        WORDS.iter().filter(|(bit, _)| state & bit != 0).map(|(_, word)| *word).collect();
    if said.is_empty() { vec!["not known to work yet"] } else { said }
}
