//! What an interface has lost and may have again in a moment.
//!
//! A DHCP client that renews, or a network manager that starts again, takes an address away and gives
//! the same one back; the kernel drops the routes by it in between. Flows outlive that if nobody acts
//! on it. So an address or a default route that is gone from an interface which keeps its carrier
//! counts as there for some seconds more. A different address ends the waiting at once.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{Kernel, Route};

/// How long what is lost is waited for, milliseconds.
const GRACE_MS: u64 = 3000;

/// What is waited for, and since when, CLOCK_MONOTONIC milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Addresses by interface.
    addresses: HashMap<(u32, Ipv4Net), u64>,
    /// Next hops of default routes by interface.
    next_hops: HashMap<u32, (Ipv4Addr, u64)>,
}

impl Kernel {
    /// Is the address one that the kernel does not have at the moment?
    pub fn has_lost(&self, address: Ipv4Addr) -> bool {
        self.lost.addresses.keys().any(|(_, net)| net.addr() == address)
    }

    /// Is anything of the interface waited for?
    pub fn waits_for(&self, index: u32) -> bool {
        self.lost.addresses.keys().any(|(of, _)| *of == index)
            || self.lost.next_hops.contains_key(&index)
    }

    /// The next hop of the default route that is waited for.
    pub(crate) fn lost_next_hop(&self, index: u32) -> Option<Ipv4Addr> {
        self.lost.next_hops.get(&index).map(|(next_hop, _)| *next_hop)
    }

    /// Keeps for a while the addresses and default routes of `before` that are gone by `now`.
    pub(crate) fn wait_for(&mut self, before: &Self, now: u64) {
        let is_due = |since: u64| now.saturating_sub(since) >= GRACE_MS;
        let known: BTreeSet<(u32, Ipv4Net)> = before.addresses.iter().copied().collect();
        let here: BTreeSet<(u32, Ipv4Net)> = self.addresses.iter().copied().collect();
        let renumbered: BTreeSet<u32> = here.difference(&known).map(|(index, _)| *index).collect();
        let waits = |of: &Self, index| {
            before.is_running(index) && of.is_running(index) && !renumbered.contains(&index)
        };
        for key @ (index, net) in before.addresses.iter().filter(|key| !here.contains(key)) {
            let since = before.lost.addresses.get(key).copied().unwrap_or(now);
            if waits(self, *index) && !is_due(since) {
                self.addresses.push(*key);
                self.lost.addresses.insert(*key, since);
                let unfit = (*index, net.addr());
                if before.unfit.contains(&unfit) {
                    self.unfit.insert(unfit);
                }
            }
        }
        let defaults = |kernel: &Self| -> BTreeSet<u32> {
            kernel.routes.defaults().iter().map(|route: &Route| route.interface).collect()
        };
        let had = defaults(before).into_iter().chain(before.lost.next_hops.keys().copied());
        for index in had.collect::<BTreeSet<u32>>().difference(&defaults(self)) {
            let since = before.lost.next_hops.get(index).map_or(now, |(_, since)| *since);
            if let Some(next_hop) = before.default_next_hop(*index)
                && waits(self, *index)
                && !is_due(since)
            {
                self.lost.next_hops.insert(*index, (next_hop, since));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Link;

    /// `wan0` with these addresses, and a default route or not.
    fn kernel(addresses: &[&str], next_hop: Option<&str>) -> Kernel {
        let default = |gateway: &str| Route {
            gateway: gateway.parse().ok(),
            ..Route::by(2, Ipv4Net::default())
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
        let addresses = kernel.addresses_of(2).iter().map(ToString::to_string).collect();
        (addresses, kernel.default_next_hop(2).map(|hop| hop.to_string()))
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
            assert!(after.waits_for(2) && after.has_lost("192.0.2.2".parse().unwrap()));
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
        assert!(!all.waits_for(2));
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
}
