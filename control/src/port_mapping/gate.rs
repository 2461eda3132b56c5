//! Who is heard: hosts of the LAN by which they ask, each so often. What is sent in the name of
//! others takes nothing from these, and no LAN takes anything from another.

use std::net::IpAddr;
use weir_layout::Family;

use weir_ports::Realm;
use weir_ports::limiter::Limiter;

/// For all LANs.
#[derive(Debug)]
pub struct Gate {
    seed: u64,
    realms: Vec<(Realm, Limiter)>,
}

impl Gate {
    /// For none yet. Where hosts are counted follows from the seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed, realms: Vec::new() }
    }

    /// Has hosts of these heard. What those asked before that may still ask is not forgotten.
    pub fn follow(&mut self, realms: &[Realm]) {
        let mut known = std::mem::take(&mut self.realms);
        let limiter = |realm: &Realm| {
            let at = known.iter().position(|(of, _)| of.is(&realm.lan, realm.family));
            at.map_or_else(|| Limiter::new(self.seed), |at| known.swap_remove(at).1)
        };
        let limiters: Vec<_> = realms.iter().map(limiter).collect();
        self.realms = realms.iter().cloned().zip(limiters).collect();
    }

    /// Is a host heard that asks by a LAN now, in milliseconds?
    pub fn admit(&mut self, lan: &str, host: IpAddr, now: u64) -> bool {
        self.admit_if(lan, host, now, Realm::holds)
    }

    /// Is one heard that looks for the gateway? By IPv6 it may do so from its address of the link.
    pub fn admit_search(&mut self, lan: &str, host: IpAddr, now: u64) -> bool {
        let is_of_link = matches!(host, IpAddr::V6(it) if it.is_unicast_link_local());
        self.admit_if(lan, host, now, |realm, host| is_of_link || realm.holds(host))
    }

    fn admit_if(
        &mut self,
        lan: &str,
        host: IpAddr,
        now: u64,
        may: impl Fn(&Realm, IpAddr) -> bool,
    ) -> bool {
        let family = Family::of(host);
        let realm = self.realms.iter_mut().find(|(realm, _)| realm.is(lan, family));
        realm.is_some_and(|(realm, limiter)| may(realm, host) && limiter.admit(host, now))
    }
}

#[cfg(test)]
mod tests {
    use weir_layout::Family;
    use weir_ports::Outside;

    use super::*;

    const NOW: u64 = 5000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Of `lan0` and `lan1`, with the same network where `overlap`.
    fn realms(overlap: bool) -> [Realm; 2] {
        let realm = |lan: &str, net: &str| Realm {
            lan: lan.into(),
            link: Some(1),
            family: Family::V4,
            servers: Vec::new(),
            networks: vec![net.parse().unwrap()],
            outside: Outside::Nowhere,
            shares_addresses: true,
        };
        [
            realm("lan0", "10.0.0.0/24"),
            realm("lan1", if overlap { "10.0.0.0/24" } else { "10.1.0.0/24" }),
        ]
    }

    fn admitted(gate: &mut Gate, lan: &str, host: &str) -> usize {
        (0..1000).filter(|_| gate.admit(lan, ip(host), NOW)).count()
    }

    #[test]
    fn what_is_sent_in_the_name_of_a_host_of_another_lan_takes_nothing_from_it() {
        for overlap in [false, true] {
            let mut gate = Gate::new(7);
            gate.follow(&realms(overlap));
            assert_eq!(admitted(&mut gate, "lan1", "10.0.0.5") > 0, overlap);
            assert!(gate.admit("lan0", ip("10.0.0.5"), NOW), "{overlap}");
        }
    }

    #[test]
    fn who_is_of_no_lan_is_not_heard() {
        let mut gate = Gate::new(7);
        assert!(!gate.admit("lan0", ip("10.0.0.5"), NOW), "none may ask yet");
        gate.follow(&realms(false));
        for (lan, host) in [("lan0", "192.0.2.1"), ("lan0", "fd00::5"), ("wan0", "10.0.0.5")] {
            assert!(!gate.admit(lan, ip(host), NOW), "{host} by {lan}");
        }
    }

    #[test]
    fn another_situation_gives_nobody_more() {
        let mut gate = Gate::new(7);
        gate.follow(&realms(false));
        let before = admitted(&mut gate, "lan0", "10.0.0.5");
        assert!((1..1000).contains(&before));
        let [lan0, lan1] = realms(false);
        gate.follow(&[lan1, lan0]);
        assert_eq!(admitted(&mut gate, "lan0", "10.0.0.5"), 0);
    }
}
