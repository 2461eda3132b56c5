//! What changed with the parts of the gateway: in the log, in the history, and for hooks.

use weir_api::time;
use weir_health::{Part, State, Transition};
use weir_publish::lans;

use super::Daemon;

impl Daemon {
    /// Writes down what changed until `now`: of uplinks, and which LANs went out of use or are back.
    pub(super) fn write_down(&mut self, now: u64) {
        let refused = |device| self.dataplane.refuses(device);
        let trouble = |name: &str| lans::trouble(name, &self.kernel, refused);
        let lans = self.lans.observe(&self.site, trouble, now).into_iter();
        let uplinks = self.monitor.take_transitions().into_iter();
        let time_ms = time::now_ms();
        for (part, transition) in uplinks.chain(lans.map(|(lan, change)| (Part::Lan(lan), change)))
        {
            log(&part, &transition);
            self.history.push(part, transition, time_ms);
        }
    }

    pub(super) fn run_hooks(&mut self) {
        for entry in self.history.since(self.told) {
            self.told = entry.number + 1;
            let named = |uplink: &&weir_site::Uplink| entry.part.uplink() == Some(&*uplink.name);
            let uplink = self.site.uplinks.iter().find(named);
            if let (Some(directory), Some(uplink)) = (&self.site.hooks, uplink) {
                self.hooks.tell(directory, &uplink.interface, entry.clone());
            }
        }
    }
}

fn log(part: &Part, transition: &Transition) {
    let Transition { from, to, reason, .. } = transition;
    let worse = matches!(to, State::Down | State::Degraded) && from != to;
    match part {
        Part::Uplink(uplink) if worse => tracing::warn!(uplink, %from, %to, %reason, "worse"),
        Part::Uplink(uplink) => tracing::info!(uplink, %from, %to, %reason, "uplink"),
        Part::Lan(lan) if worse => tracing::warn!(lan, %from, %to, %reason, "worse"),
        Part::Lan(lan) => tracing::info!(lan, %from, %to, %reason, "LAN"),
    }
}
