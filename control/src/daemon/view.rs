//! The uplinks, for people and programs.

use weir_api::{TargetView, UplinkView, time};
use weir_health::Path;
use weir_health::target::Watched;
use weir_layout::Family;

use super::Daemon;

impl Daemon {
    /// How they are, in the order of the file: those that have an IPv4 path, by it.
    pub(super) fn view(&self) -> Vec<UplinkView> {
        let now = time::monotonic_ms();
        let monitor = self.decider.monitor(Family::V4);
        let view = |(index, uplink): (usize, &weir_site::UplinkConfig)| {
            let health = monitor.path(index)?;
            Some(UplinkView {
                uplink: uplink.name.clone(),
                state: health.state(),
                reason: health.reason(),
                for_ms: now.saturating_sub(health.since()),
                hold_down_ms: health.hold_ms(),
                targets: health.targets().iter().map(|t| of_target(t, health, now)).collect(),
                load: self.decider.load().view(index),
            })
        };
        self.decider.site().uplinks.iter().enumerate().filter_map(view).collect()
    }
}

fn of_target(target: &Watched, path: &Path, now: u64) -> TargetView {
    TargetView {
        target: target.definition().name.clone(),
        status: target.status(),
        figures: target.figures(),
        error: target.error().map(|(error, _)| error),
        error_ago_ms: target.error().map(|(_, at)| now.saturating_sub(at)),
        judged: !path.health().implied,
    }
}
