//! What the file says of load: capacities, thresholds, and what cannot come of them.

use std::ops::Range;

use toml::Spanned;

use super::schema;
use super::{Policy, Uplink};
use crate::load::settings::parse_rate;
use crate::load::{Balance, Capacity, Spill};

/// Takes what is wrong: where, what, and what to do.
pub type Refuse<'r> = dyn FnMut(Range<usize>, String, &str) + 'r;

/// The capacity of an uplink.
pub fn capacity(given: Option<&schema::Capacity>, refuse: &mut Refuse<'_>) -> Capacity {
    let Some(given) = given else { return [None; 2] };
    [&given.down, &given.up].map(|rate| {
        let rate = rate.as_ref()?;
        let parsed = parse_rate(rate.get_ref());
        parsed.map_err(|(what, help)| refuse(rate.span(), format!("capacity: {what}"), help)).ok()
    })
}

/// The thresholds of an uplink. One whose capacity the file does not tell has them only if it asks:
/// what is learned may surprise.
pub fn spill(
    given: Option<&Spanned<Spill>>,
    capacity: Capacity,
    refuse: &mut Refuse<'_>,
) -> Option<Spill> {
    let Some(given) = given else {
        return capacity.iter().any(Option::is_some).then_some(Spill::DEFAULT);
    };
    let Spill { above, below } = *given.get_ref();
    if !(1..=100).contains(&above) {
        refuse(given.span(), format!("spill.above {above} is out of range"), "use 1 to 100");
    } else if below >= above {
        refuse(
            given.span(),
            format!("spill.below {below} is not below spill.above {above}"),
            "leave room between them, or new flows go to and fro",
        );
    }
    Some(*given.get_ref())
}

/// What is allowed but cannot do what it says.
pub fn warnings(uplinks: &[Uplink], policies: &[Policy]) -> Vec<String> {
    let mut warnings = Vec::new();
    let untold = |uplink: &Uplink| uplink.capacity[0].is_none();
    let unprobed = |uplink: &Uplink| uplink.health.targets.is_empty();
    for uplink in uplinks {
        let name = &uplink.name;
        if uplink.spill.is_some() && uplink.capacity == [None; 2] && unprobed(uplink) {
            warnings.push(format!(
                "uplink {name} never spills: its capacity is not given, and it has no \
                 health.targets to learn it by"
            ));
        }
    }
    for policy in policies {
        let members = policy.members.iter().filter_map(|m| uplinks.get(usize::from(m.uplink)));
        let names = |wanted: &dyn Fn(&Uplink) -> bool| -> Vec<&str> {
            members.clone().filter(|u| wanted(u)).map(|u| u.name.as_str()).collect()
        };
        let until = names(&untold).join(", ");
        let never = names(&|u| untold(u) && unprobed(u)).join(", ");
        let blind = names(&unprobed).join(", ");
        let name = &policy.name;
        match policy.balance {
            Balance::LeastLoaded if !never.is_empty() => warnings.push(format!(
                "policy {name} goes by weights and not by load in tiers with {never}: give \
                 capacity.down, or health.targets to learn it by"
            )),
            Balance::LeastLoaded if !until.is_empty() => warnings.push(format!(
                "policy {name} goes by weights and not by load until the capacity of {until} is \
                 learned: give capacity.down"
            )),
            Balance::LowestLatency if !blind.is_empty() => warnings.push(format!(
                "policy {name} uses {blind} only if no other uplink has a round-trip time: give \
                 health.targets"
            )),
            _ => {}
        }
    }
    warnings
}
