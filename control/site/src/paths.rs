//! The paths of an uplink, one in each address family that it is used for.

use weir_layout::Family;
use weir_layout::control::Translate;

use super::UplinkConfig;
use super::health::{Health, Target};

impl UplinkConfig {
    /// Has it a path in the family?
    pub fn has_path(&self, family: Family) -> bool {
        family == Family::V4 || self.ipv6.is_some()
    }

    /// What it does with source addresses of a family: nothing, where it has no path of it.
    pub fn translation(&self, family: Family) -> Translate {
        match family {
            Family::V4 => self.translate,
            Family::V6 => self.ipv6.as_ref().map_or(Translate::None, |ipv6| ipv6.translate),
        }
    }

    /// May what no flow asked for come in by it in a family, for the prefixes of the LANs?
    pub fn is_inbound(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.inbound,
            Family::V6 => self.ipv6.as_ref().is_some_and(|ipv6| ipv6.inbound),
        }
    }

    /// Do its flows of a family have entries, also where none needs any?
    pub fn is_pinned(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.pin,
            Family::V6 => self.ipv6.as_ref().is_some_and(|ipv6| ipv6.pin),
        }
    }

    /// Is each of its paths out of use where the other is?
    pub fn is_joint(&self) -> bool {
        self.ipv6.as_ref().is_some_and(|ipv6| ipv6.joint)
    }

    /// Does the file leave the prefixes of its IPv6 path to its provider?
    pub fn is_delegated(&self) -> bool {
        self.ipv6.as_ref().is_some_and(|ipv6| ipv6.delegation.is_some())
    }

    /// Does its IPv6 path wait for a prefix that its provider is to delegate?
    pub fn awaits_prefix(&self) -> bool {
        self.is_delegated() && self.ipv6.iter().all(|ipv6| ipv6.prefixes.is_empty())
    }

    /// Is anything beyond the next hop probed of its path in a family?
    pub fn has_targets(&self, family: Family) -> bool {
        self.health.targets.iter().any(|target| is_of(target, family))
    }

    /// How the health of its path in a family is judged; `None`: it has none. A target is evidence
    /// of the path in its own family alone. Without one, what is [implied](Self::implied) is
    /// probed.
    pub fn path_health(&self, family: Family) -> Option<Health> {
        if !self.has_path(family) {
            return None;
        }
        let mut health = self.health.clone();
        health.targets.retain(|target| is_of(target, family));
        if health.targets.is_empty() {
            health.targets.extend(self.implied[family.index()].clone());
            health.implied = true;
        }
        Some(health)
    }
}

/// Is the target asked by this family?
fn is_of(target: &Target, family: Family) -> bool {
    target.kind.host().is_none_or(|host| Family::of(host) == family)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n\
        [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\nhealth = { targets = [\
        { name = \"four\", probe = \"icmp\", address = \"192.0.2.1\" },\
        { name = \"six\", probe = \"icmp\", address = \"2001:db8::1\" }] }\n";

    fn targets(uplink: &UplinkConfig) -> [Option<Vec<String>>; Family::COUNT] {
        let names = |health: Health| health.targets.into_iter().map(|target| target.name).collect();
        Family::ALL.map(|family| uplink.path_health(family).map(names))
    }

    #[test]
    fn a_target_is_evidence_of_the_path_of_its_family() {
        let mut uplink = crate::parse("weir.toml", SITE).unwrap().uplinks.remove(0);
        uplink.ipv6 = Some(crate::Ipv6Config::default());
        assert_eq!(targets(&uplink), [Some(vec!["four".into()]), Some(vec!["six".into()])]);
    }

    #[test]
    fn a_target_of_a_family_without_a_path_is_evidence_of_nothing() {
        let uplink = crate::parse("weir.toml", SITE).unwrap().uplinks.remove(0);
        assert_eq!(targets(&uplink), [Some(vec!["four".into()]), None]);
    }
}
