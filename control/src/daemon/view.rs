//! The uplinks, for people and programs.

use weir_api::{PathView, TargetView, UplinkView, time};
use weir_health::availability::Shares;
use weir_health::target::Watched;
use weir_health::{Monitor, Part, Path};
use weir_layout::Family;
use weir_metrics::Told;

use super::Daemon;

impl Daemon {
    /// Tells who serves metrics how things are, if somebody does.
    pub(super) fn tell_metrics(&self) {
        if !self.exporter.is_on() {
            return;
        }
        let lan = |lan: &weir_site::Lan| {
            let name = lan.interface.clone();
            let is_up = self.decider.lan_is_up(&name);
            (name, is_up)
        };
        self.exporter.tell(Told {
            uplinks: self.view(),
            lans: self.decider.site().lans.iter().map(lan).collect(),
            mapped: self.port_mapper.view().len(),
            taken_s: self.source.taken_s(),
            refused: self.source.is_refused(),
            flow_export: self.flow_exporter.counts(),
            ..Told::default()
        });
    }

    /// How they are, in the order of the file.
    pub(super) fn view(&self) -> Vec<UplinkView> {
        let now = time::monotonic_ms();
        let unix_s = time::now_ms() / 1000;
        let view = |(index, uplink): (usize, &weir_site::UplinkConfig)| {
            let of = |family| {
                let shares = self.availability.of(&Part::path(uplink.name.clone(), family), unix_s);
                of_path(self.decider.monitor(family), index, shares, now)
            };
            Some(UplinkView {
                uplink: uplink.name.clone(),
                ipv4: of(Family::V4)?,
                ipv6: of(Family::V6),
                load: self.decider.load().view(index),
            })
        };
        self.decider.site().uplinks.iter().enumerate().filter_map(view).collect()
    }
}

fn of_path(monitor: &Monitor, uplink: usize, availability: Shares, now: u64) -> Option<PathView> {
    let path = monitor.path(uplink)?;
    let (state, reason, since) = monitor.state(uplink)?;
    Some(PathView {
        state,
        reason,
        for_ms: now.saturating_sub(since),
        hold_down_ms: path.hold_ms(),
        availability,
        targets: path.targets().iter().map(|target| of_target(target, path, now)).collect(),
    })
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
