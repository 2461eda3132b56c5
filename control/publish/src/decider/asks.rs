//! What follows for the kernel: neighbours to ask for, rules and routes.

use std::net::IpAddr;

use weir_layout::Family;
use weir_view::own::Own;

use super::Decider;
use crate::own;

/// How often the next hop of an uplink whose targets stay silent is checked, milliseconds: it is
/// answered for within three seconds, or lost.
const NEXT_HOP_CHECK_MS: u64 = 5000;

impl Decider {
    /// Next hops whose hardware address is to be asked for, after the index of their interface.
    pub fn unresolved(&self) -> &[(u32, IpAddr)] {
        &self.unresolved
    }

    /// Next hops that are to be checked at `now`, with the hardware address they are known by: while
    /// an uplink's targets are silent, perhaps another router has the address and did not say so, or
    /// it is dead.
    pub fn doubts(&mut self, now: u64) -> Vec<(u32, IpAddr, [u8; 6])> {
        let monitor = &self.paths[Family::V4.index()].monitor;
        self.doubted.resize(self.site.uplinks.len(), None);
        let mut doubts = Vec::new();
        for (index, uplink) in self.site.uplinks.iter().enumerate() {
            let last = &mut self.doubted[index];
            if !monitor.is_silent(index) {
                *last = None;
            } else if last.is_none_or(|last| now.saturating_sub(last) >= NEXT_HOP_CHECK_MS)
                && let Some(link) = self.kernel.link(&uplink.interface)
                && let Some(next_hop) = uplink.next_hop_by(Family::V4, link.index, &self.kernel)
                && let Some(known) = self.kernel.neighbours.get(&(link.index, next_hop))
                && known.trusted
            {
                *last = Some(now);
                doubts.push((link.index, next_hop, known.mac));
            }
        }
        doubts
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
