//! The uplinks, for people and programs.

use weir_api::{TargetView, UplinkView, time};
use weir_health::Uplink;
use weir_health::target::Watched;

use super::Daemon;

impl Daemon {
    /// How they are, in the order of the file.
    pub(super) fn view(&self) -> Vec<UplinkView> {
        let now = time::monotonic_ms();
        let uplinks = self.decider.site().uplinks.iter().zip(self.decider.monitor().uplinks());
        let view = |(index, (uplink, health)): (usize, (&weir_site::Uplink, &Uplink))| UplinkView {
            uplink: uplink.name.clone(),
            state: health.state(),
            reason: health.reason(),
            for_ms: now.saturating_sub(health.since()),
            hold_down_ms: health.hold_ms(),
            targets: health.targets().iter().map(|target| of_target(target, health, now)).collect(),
            load: self.decider.load().view(index),
        };
        uplinks.enumerate().map(view).collect()
    }
}

fn of_target(target: &Watched, uplink: &Uplink, now: u64) -> TargetView {
    TargetView {
        target: target.definition().name.clone(),
        status: target.status(),
        figures: target.figures(),
        error: target.error().map(|(error, _)| error),
        error_ago_ms: target.error().map(|(_, at)| now.saturating_sub(at)),
        judged: !uplink.health().implied,
    }
}
