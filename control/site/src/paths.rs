//! The paths of an uplink, one in each address family that it is used for.

use weir_layout::Family;

use super::UplinkConfig;
use super::health::Health;

impl UplinkConfig {
    /// Has it a path in the family?
    pub fn has_path(&self, family: Family) -> bool {
        family == Family::V4 || self.ipv6
    }

    /// How the health of its path in a family is judged; `None`: it has none. Where it has both, a
    /// target is evidence of the path in its own family alone.
    pub fn path_health(&self, family: Family) -> Option<Health> {
        if !self.has_path(family) {
            return None;
        }
        let mut health = self.health.clone();
        if Family::ALL.into_iter().all(|family| self.has_path(family)) {
            let is_of = |host: std::net::IpAddr| host.is_ipv6() == (family == Family::V6);
            health.targets.retain(|target| target.kind.host().is_none_or(is_of));
        }
        Some(health)
    }
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
        uplink.ipv6 = true;
        assert_eq!(targets(&uplink), [Some(vec!["four".into()]), Some(vec!["six".into()])]);
    }

    #[test]
    fn all_targets_are_evidence_of_the_only_path() {
        let uplink = crate::parse("weir.toml", SITE).unwrap().uplinks.remove(0);
        assert_eq!(targets(&uplink), [Some(vec!["four".into(), "six".into()]), None]);
    }
}
