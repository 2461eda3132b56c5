//! What follows for the kernel: neighbours to ask for, rules and routes.

use std::net::IpAddr;

use weir_view::own::Own;

use super::Decider;
use crate::own;

impl Decider {
    /// Next hops whose hardware address is to be asked for, after the index of their interface.
    pub fn unresolved(&self) -> &[(u32, IpAddr)] {
        &self.unresolved
    }

    /// Next hops that are to be checked at `now`, with the hardware address they are known by: while
    /// an uplink's targets are silent, perhaps another router has the address and did not say so, or
    /// it is dead.
    pub fn doubts(&mut self, now: u64) -> Vec<(u32, IpAddr, [u8; 6])> {
        let Self { site, kernel, paths, .. } = self;
        paths.iter_mut().flat_map(|paths| paths.doubts(site, kernel, now)).collect()
    }

    /// The rules and routes for what the gateway itself sends, if they may be others than when this
    /// was last asked. Whoever asks says what came of it by [`own_made`](Self::own_made).
    pub fn own_traffic(&mut self) -> Option<Own> {
        let half = self.half.as_deref()?;
        let words = self.paths.each_ref().map(|paths| paths.states.words());
        let wanted = || own::wanted(&self.site, &self.kernel, half, words);
        std::mem::take(&mut self.unrouted).then(wanted)
    }

    /// The kernel has these of weir's rules and routes now, and they are all that were wanted or not.
    pub fn own_made(&mut self, known: Own, all: bool) {
        self.kernel.own = known.into();
        self.unrouted |= !all;
    }
}
