//! What a gateway that runs does not take from another file at once and without loss.

use weir_layout::Family;
use weir_layout::control::{ControlHalf, Member};
use weir_layout::flow::slots_for;
use weir_site::{Problem, Site};
use weir_view::Kernel;

use crate::derive::{Derived, derive};
use crate::overrides::Overrides;

/// Beside what is published; `forwards` says whether the dataplane runs.
pub fn warnings(site: &Site, published: &ControlHalf, forwards: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(change) = other_workers(site, published).filter(|_| forwards) {
        warnings.push(format!(
            "{change}: weir-dataplane starts its workers anew for that, and for about a second \
             packets are lost"
        ));
    }
    if published.flow_slots != slots_for(site.flow_table) {
        warnings.push("flow_table: the table keeps its size until `weir detach`".into());
    }
    warnings
}

/// What needs other workers, as weir-dataplane sees it: they divide the ports of the uplinks among
/// them, and have a table of IPv6 flows where an uplink has IPv6.
pub fn other_workers(site: &Site, published: &ControlHalf) -> Option<&'static str> {
    if divides_otherwise(site, published) {
        Some("workers, cores or nat_ports differ from what runs")
    } else if site.has_ipv6() && !published.serves_ipv6() {
        Some("it has the first `ipv6`")
    } else if !site.has_ipv6() && published.serves_ipv6() {
        Some("it has no `ipv6` any more")
    } else {
        None
    }
}

fn divides_otherwise(site: &Site, published: &ControlHalf) -> bool {
    let known = published.uplinks.iter().filter(|uplink| !uplink.name.as_str().is_empty());
    let workers = usize::from(site.workers);
    let cores = site.cores.iter().copied().chain(std::iter::repeat(u16::MAX)).take(workers);
    site.workers != published.workers
        || !cores.eq(published.cores.iter().copied().take(workers))
        || known
            .map(|uplink| uplink.path(Family::V4))
            .any(|path| (path.nat_lo, path.nat_hi) != site.nat_ports)
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

/// What a machine lets pass of a file of this name, and is to be known: it takes one LAN or one
/// uplink out of use, and keeps the others from nothing.
///
/// # Errors
/// With all that a gateway cannot run with.
pub fn admit(site: &Site, kernel: &Kernel, name: &str) -> Result<Vec<String>, String> {
    let problems = weir_site::against_kernel(site, kernel, name);
    let (passing, lasting): (Vec<_>, _) = problems.into_iter().partition(|p| p.passing);
    let texts = |of: &[Problem]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
    if lasting.is_empty() { Ok(texts(&passing)) } else { Err(texts(&lasting).join("\n")) }
}

/// What a file makes of a gateway, with what is set by hand.
///
/// # Errors
/// When by that a policy would take no flows.
pub fn derived(
    site: &Site,
    kernel: &Kernel,
    overrides: &Overrides,
    published: Option<&ControlHalf>,
) -> Result<Derived, String> {
    let derived = derive(site, kernel, overrides, [&[]; 2], published);
    match weightless(&derived.half, site.policies.len()) {
        None => Ok(derived),
        Some(policy) => Err(format!(
            "with the weights that are set by hand, those of policy {policy} add up to zero: \
             `weir overrides` lists them"
        )),
    }
}

/// A policy of the first `policies` that has a tier whose weights add up to zero: it would take no
/// flows there.
pub fn weightless(half: &ControlHalf, policies: usize) -> Option<&str> {
    let has_none = |policy: &&weir_layout::control::Policy| {
        let members = policy.members();
        members.iter().map(|m| m.tier).any(|tier| {
            let of_tier = members.iter().filter(|m| m.tier == tier);
            of_tier.map(|m| u32::from(m.weight & Member::MAX_WEIGHT)).sum::<u32>() == 0
        })
    };
    half.policies.iter().take(policies).find(has_none).map(|policy| policy.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{published, site};

    const SITE: &str = "[gateway]\nworkers = 2\ncores = [1]\nnat_ports = \"16384-65535\"\n\
        [[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";

    /// With this instead of that in the file.
    fn told(forwards: bool, from: &str, to: &str) -> Vec<String> {
        let of = |text: &str| weir_site::parse("weir.toml", text).unwrap();
        let overrides = Overrides::default();
        let published = derive(&of(SITE), &Kernel::default(), &overrides, [&[]; 2], None);
        warnings(&of(&SITE.replace(from, to)), &published.half, forwards)
    }

    #[test]
    fn what_needs_other_workers_is_told_while_the_dataplane_runs() {
        for (from, to) in [("workers = 2", "workers = 3"), ("[1]", "[0, 1]"), ("16384", "20000")] {
            let told_of = told(true, from, to);
            assert!(told_of.len() == 1 && told_of[0].contains("packets are lost"), "{told_of:?}");
            assert_eq!(told(false, from, to), [""; 0], "{to}");
        }
        assert_eq!(told(true, "\"a\"", "\"a\"\nweight = 3"), [""; 0]);
    }

    #[test]
    fn the_first_ipv6_and_the_loss_of_the_last_need_other_workers() {
        let four = weir_site::parse("weir.toml", SITE).unwrap();
        let text = format!("{SITE}ipv6 = {{ translate = \"none\" }}\n");
        let six = weir_site::parse("weir.toml", &text).unwrap();
        let overrides = Overrides::default();
        let mut published = derive(&four, &Kernel::default(), &overrides, [&[]; 2], None).half;
        assert_eq!(warnings(&four, &published, true), [""; 0]);
        let told = warnings(&six, &published, true);
        assert!(told.len() == 1 && told[0].starts_with("it has the first `ipv6`: "), "{told:?}");
        published.policies[0].steering_mut(Family::V6).has_table = 1;
        assert_eq!(warnings(&six, &published, true), [""; 0]);
        let told = warnings(&four, &published, true);
        assert!(told.len() == 1 && told[0].starts_with("it has no `ipv6` any"), "{told:?}");
        assert_eq!(warnings(&four, &published, false), [""; 0]);
    }

    #[test]
    fn another_size_of_the_flow_table_is_told_to_wait() {
        let told = told(false, "workers = 2", "workers = 2\nflow_table = 4096");
        assert!(told.len() == 1 && told[0].contains("until `weir detach`"), "{told:?}");
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
}
