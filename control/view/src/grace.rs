//! What an interface has lost and may have again in a moment.
//!
//! A DHCP client that renews, or a network manager that starts again, takes an address away and
//! gives the same one back; the kernel drops the routes by it in between. Flows outlive that if
//! nobody acts on it. So an address or a default route that is gone from an interface which keeps
//! its carrier counts as there for some seconds more. A different address ends the waiting at once.
//! Of IPv6 that is one of another network: hosts take further ones of a network as they like (RFC
//! 8981).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weir_layout::Family;

use crate::Kernel;

/// How long what is lost of IPv4 is waited for, milliseconds.
const GRACE_MS: u64 = 3000;
/// The same of IPv6: a router that takes itself back by an advertisement says three seconds later,
/// or half a second more, that it is there (MIN_DELAY_BETWEEN_RAS and MAX_RA_DELAY_TIME, RFC 4861
/// §10).
const GRACE6_MS: u64 = 5000;

/// What is waited for, and since when, CLOCK_MONOTONIC milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Addresses by interface.
    addresses: HashMap<(u32, IpNet), u64>,
    /// Next hops of default routes by interface and family.
    next_hops: HashMap<(u32, Family), (IpAddr, u64)>,
}

impl Kernel {
    /// Is the address one that the kernel does not have at the moment?
    pub fn has_lost(&self, address: IpAddr) -> bool {
        self.lost.addresses.keys().any(|(_, net)| net.addr() == address)
    }

    /// Is anything of the interface waited for in the family?
    pub fn waits_for(&self, index: u32, of: Family) -> bool {
        let is_of = |(at, net): &(u32, IpNet)| *at == index && Family::of(net.addr()) == of;
        self.lost.addresses.keys().any(is_of) || self.lost.next_hops.contains_key(&(index, of))
    }

    /// The next hop of the default route that is waited for.
    pub(crate) fn lost_next_hop(&self, index: u32, family: Family) -> Option<IpAddr> {
        self.lost.next_hops.get(&(index, family)).map(|(next_hop, _)| *next_hop)
    }

    /// Keeps for a while the addresses and default routes of `before` that are gone by `now`.
    pub(crate) fn wait_for(&mut self, before: &Self, now: u64) {
        let is_due = |since: u64, of: Family| now.saturating_sub(since) >= grace_ms(of);
        let known: BTreeSet<(u32, IpNet)> = before.addresses.iter().copied().collect();
        let here: BTreeSet<(u32, IpNet)> = self.addresses.iter().copied().collect();
        let is_other = |(index, net): &&(u32, IpNet)| match net {
            IpNet::V4(_) => true,
            IpNet::V6(_) => {
                !known.iter().any(|(at, had)| at == index && had.trunc() == net.trunc())
            }
        };
        let renumbered: BTreeSet<(u32, Family)> = here
            .difference(&known)
            .filter(is_other)
            .map(|(index, net)| (*index, Family::of(net.addr())))
            .collect();
        let waits = |of: &Self, index, family| {
            let running = before.is_running(index) && of.is_running(index);
            running && !renumbered.contains(&(index, family))
        };
        for key @ (index, net) in before.addresses.iter().filter(|key| !here.contains(key)) {
            let since = before.lost.addresses.get(key).copied().unwrap_or(now);
            let of = Family::of(net.addr());
            if waits(self, *index, of) && !is_due(since, of) {
                self.addresses.push(*key);
                self.lost.addresses.insert(*key, since);
                let at = (*index, net.addr());
                let also = |of: &HashSet<_>| of.get(&at).copied();
                self.unfit.extend(also(&before.unfit));
                self.deprecated.extend(also(&before.deprecated));
                self.advertised.extend(also(&before.advertised));
            }
        }
        let had = before.with_default().into_iter().chain(before.lost.next_hops.keys().copied());
        for (index, family) in had.collect::<BTreeSet<_>>().difference(&self.with_default()) {
            let key = (*index, *family);
            let since = before.lost.next_hops.get(&key).map_or(now, |(_, since)| *since);
            if let Some(next_hop) = before.default_next_hop(*family, *index)
                && waits(self, *index, *family)
                && !is_due(since, *family)
            {
                self.lost.next_hops.insert(key, (next_hop, since));
            }
        }
    }

    /// The interfaces that have a default route, and in which family.
    fn with_default(&self) -> BTreeSet<(u32, Family)> {
        let v4 = self.routes.defaults().iter().map(|route| (route.interface, Family::V4));
        let v6 = self.routes6.defaults().iter().map(|route| (route.interface, Family::V6));
        v4.chain(v6).collect()
    }
}

const fn grace_ms(of: Family) -> u64 {
    match of {
        Family::V4 => GRACE_MS,
        Family::V6 => GRACE6_MS,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Link, Route};

    /// `wan0` with these addresses, and a default route or not.
    fn kernel(addresses: &[&str], next_hop: Option<&str>) -> Kernel {
        let default = |gateway: &str| Route {
            gateway: gateway.parse().ok(),
            ..Route::by(2, ipnet::Ipv4Net::default())
        };
        let routes: Vec<Route> = next_hop.map(default).into_iter().collect();
        Kernel {
            links: vec![Link { index: 2, name: "wan0".into(), running: true, ..Link::default() }],
            addresses: addresses.iter().map(|net| (2, net.parse().unwrap())).collect(),
            routes: Arc::new(routes.into()),
            ..Kernel::default()
        }
    }

    const ADDRESS: &str = "192.0.2.2/24";
    const NEXT_HOP: Option<&str> = Some("192.0.2.1");

    fn seen(kernel: &Kernel) -> (Vec<String>, Option<String>) {
        let addresses =
            kernel.addresses_of(Family::V4, 2).iter().map(ToString::to_string).collect();
        (addresses, kernel.default_next_hop(Family::V4, 2).map(|hop| hop.to_string()))
    }

    fn whole() -> (Vec<String>, Option<String>) {
        (vec!["192.0.2.2".into()], Some("192.0.2.1".into()))
    }

    #[test]
    fn an_address_and_a_route_that_are_gone_are_waited_for() {
        let mut before = kernel(&[ADDRESS], NEXT_HOP);
        for now in [1000, 2000, 1000 + GRACE_MS - 1] {
            let mut after = kernel(&[], None);
            after.wait_for(&before, now);
            assert_eq!(seen(&after), whole(), "{now}");
            assert!(after.waits_for(2, Family::V4) && after.has_lost("192.0.2.2".parse().unwrap()));
            before = after;
        }
        let mut after = kernel(&[], None);
        after.wait_for(&before, 1000 + GRACE_MS);
        assert_eq!(seen(&after), (Vec::new(), None));
    }

    #[test]
    fn what_is_back_is_waited_for_no_longer() {
        let mut gone = kernel(&[], None);
        gone.wait_for(&kernel(&[ADDRESS], NEXT_HOP), 1000);
        let mut address = kernel(&[ADDRESS], None);
        address.wait_for(&gone, 1100);
        assert_eq!(seen(&address), whole());
        assert!(!address.has_lost("192.0.2.2".parse().unwrap()));
        let mut all = kernel(&[ADDRESS], NEXT_HOP);
        all.wait_for(&address, 1200);
        assert!(!all.waits_for(2, Family::V4));
        // The next time counts anew.
        let mut again = kernel(&[], None);
        again.wait_for(&all, 1100 + GRACE_MS);
        assert_eq!(seen(&again), whole());
    }

    #[test]
    fn a_different_address_is_obeyed_at_once() {
        let mut gone = kernel(&[], None);
        gone.wait_for(&kernel(&[ADDRESS], NEXT_HOP), 1000);
        for before in [gone, kernel(&[ADDRESS], NEXT_HOP)] {
            let mut after = kernel(&["192.0.2.9/24"], None);
            after.wait_for(&before, 1010);
            assert_eq!(seen(&after), (vec!["192.0.2.9".into()], None));
        }
    }

    #[test]
    fn what_goes_with_the_carrier_is_lost_at_once() {
        let mut after = kernel(&[], None);
        after.links[0].running = false;
        after.wait_for(&kernel(&[ADDRESS], NEXT_HOP), 1000);
        assert_eq!(seen(&after), (Vec::new(), None));
    }

    #[test]
    fn another_address_of_one_family_ends_no_waiting_in_the_other() {
        let next_hop6 = "fe80::1".parse().ok();
        let default = Route { gateway: next_hop6, ..Route::by(2, ipnet::Ipv6Net::default()) };
        let before = Kernel {
            routes6: Arc::new(vec![default].into()),
            ..kernel(&[ADDRESS, "2001:db8::2/64"], NEXT_HOP)
        };
        let mut after = kernel(&["192.0.2.9/24"], NEXT_HOP);
        after.wait_for(&before, 1000);
        assert_eq!(seen(&after).0, ["192.0.2.9"]);
        assert!(after.has_lost("2001:db8::2".parse().unwrap()));
        assert!(after.waits_for(2, Family::V6) && !after.waits_for(2, Family::V4));
        assert_eq!(after.default_next_hop(Family::V6, 2), next_hop6.map(IpAddr::V6));
    }

    /// `wan0` with these addresses, and a default route of IPv6 or not.
    fn kernel6(addresses: &[&str], has_route: bool) -> Kernel {
        let gateway = "fe80::1".parse().ok();
        let default = Route { gateway, ..Route::by(2, ipnet::Ipv6Net::default()) };
        let routes = if has_route { vec![default] } else { vec![] };
        Kernel { routes6: Arc::new(routes.into()), ..kernel(addresses, None) }
    }

    #[test]
    fn a_router_that_takes_itself_back_is_waited_for_until_its_next_advertisement() {
        let mut before = kernel6(&["2001:db8::2/64"], true);
        for now in [1000, 1000 + 3600, 1000 + GRACE6_MS - 1, 1000 + GRACE6_MS] {
            let mut after = kernel6(&["2001:db8::2/64"], false);
            after.wait_for(&before, now);
            let waited = now < 1000 + GRACE6_MS;
            assert_eq!(after.default_next_hop(Family::V6, 2).is_some(), waited, "{now}");
            before = after;
        }
    }

    #[test]
    fn of_ipv6_an_address_of_another_network_alone_is_a_different_one() {
        let before = kernel6(&["2001:db8::2/64"], true);
        let waits = |addresses: &[&str]| {
            let mut after = kernel6(addresses, false);
            after.wait_for(&before, 1000);
            after.waits_for(2, Family::V6)
        };
        assert!(waits(&["2001:db8::2/64", "2001:db8::77/64"]), "a temporary one");
        assert!(!waits(&["2001:db8:1::2/64"]));
    }
}
