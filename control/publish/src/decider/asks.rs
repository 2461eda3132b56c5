//! What follows for the kernel: neighbours to ask for, rules and routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_layout::Family;
use weir_view::NeighbourEntry;
use weir_view::own::Own;

use super::Decider;
use crate::own;

/// So many hosts of LANs are confirmed at once.
const CONFIRM: usize = 8;
/// The time until the next ones, milliseconds: some hundred hosts in the half minute for which the
/// kernel trusts an answer (`base_reachable_time_ms`).
const CONFIRM_MS: u64 = 500;

impl Decider {
    /// Next hops whose hardware address is to be asked for, after the index of their interface.
    pub fn unresolved(&self) -> &[(u32, IpAddr)] {
        &self.unresolved
    }

    /// Next hops that are to be checked at `now`, with the hardware address they are known by:
    /// while an uplink's targets are silent, perhaps another router has the address and did not say
    /// so, or it is dead.
    pub fn doubts(&mut self, now: u64) -> Vec<(u32, IpAddr, [u8; 6])> {
        let Self { site, kernel, paths, .. } = self;
        paths.iter_mut().flat_map(|paths| paths.doubts(site, kernel, now)).collect()
    }

    /// Hosts of LANs that are to be confirmed at `now`, each after the index of its interface:
    /// those that the kernel has not heard of for a while, where XDP forwards by what the kernel
    /// knows. The kernel begins to doubt a neighbour only when it sends to it itself, and what XDP
    /// sends it does not see: it would keep a host for ever that is gone, or that another has taken
    /// the place of.
    pub fn unconfirmed(&mut self, now: u64) -> Vec<(u32, IpAddr)> {
        let Some(half) = self.half.as_deref() else { return Vec::new() };
        let without_flows = Family::ALL.map(|family| half.stateless(family).is_some());
        if now.saturating_sub(self.confirmed) < CONFIRM_MS || !without_flows.contains(&true) {
            return Vec::new();
        }
        self.confirmed = now;
        let lans = self.site.lans.iter().filter_map(|lan| self.kernel.link(&lan.interface));
        let lans: BTreeSet<u32> = lans.map(|link| link.index).collect();
        let is_old = |(at, entry): &(&(u32, IpAddr), &NeighbourEntry)| {
            let (interface, address) = at;
            let family = Family::of(*address);
            !entry.fresh && lans.contains(interface) && without_flows[family.index()]
        };
        // In no order: the kernel's list is a map, made anew each time.
        let old = self.kernel.neighbours.iter().filter(is_old).map(|(at, _)| *at);
        old.take(CONFIRM).collect()
    }

    /// The rules and routes for what the gateway itself sends, if they may be others than when this
    /// was last asked. Whoever asks says what came of it by [`own_made`](Self::own_made).
    pub fn own_traffic(&mut self) -> Option<Own> {
        let half = self.half.as_deref()?;
        let words = self.paths.each_ref().map(|paths| paths.states.words());
        let wanted = || own::wanted(&self.site, &self.kernel, half, words);
        std::mem::take(&mut self.unrouted).then(wanted)
    }

    /// The kernel has these of weir's rules and routes now, and they are all that were wanted or
    /// not.
    pub fn own_made(&mut self, known: Own, all: bool) {
        self.kernel.own = known.into();
        self.unrouted |= !all;
    }
}
