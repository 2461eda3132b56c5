//! Uplinks, their paths, and what is probed.

use std::fmt;

use weir_api::{PathView, TargetView, words};
use weir_health::load::{CapacityFrom, DirectionView};
use weir_health::{State, Status};
use weir_layout::Family;
use weir_layout::control::{PathId, Port, path_state};
use weir_layout::counters::PathCounters;
use weir_shm::published::Published;

use crate::Told;
use crate::metric::*;
use crate::page::{Figure, Page};

/// The states of a path, in the order in which they are told.
const STATES: [State; 5] =
    [State::Up, State::Degraded, State::Draining, State::Recovering { until: 0 }, State::Down];

/// What the control process knows of their health and load.
pub fn add_told(told: &Told, page: &mut Page<'_>) -> fmt::Result {
    add_load(told, page)?;
    let states = paths(told).flat_map(|(uplink, family, path)| {
        STATES.map(|state| ([uplink, family, state.name()], state.name() == path.state.name()))
    });
    page.flag(&PATH_STATE, states)?;
    let probes = || paths(told).flat_map(probes);
    let answers = |target: &TargetView| target.status == Status::Answering;
    page.flag(&PROBE_UP, probes().map(|(labels, target)| (labels, answers(target))))?;
    page.flag(&PROBE_JUDGED, probes().map(|(labels, target)| (labels, target.judged)))?;
    let loss = probes().filter_map(|(labels, target)| Some((labels, target.loss()?)));
    page.gauge(&PROBE_LOSS, loss)?;
    let times = || probes().filter_map(|(labels, target)| Some((labels, target.times()?)));
    page.gauge(&PROBE_RTT, times().map(|(labels, [rtt, _])| (labels, rtt)))?;
    page.gauge(&PROBE_JITTER, times().map(|(labels, [_, jitter])| (labels, jitter)))
}

/// The paths that are judged: uplink, family, health.
fn paths(told: &Told) -> impl Iterator<Item = (&str, &'static str, &PathView)> {
    told.uplinks.iter().flat_map(|uplink| {
        let path = |family: Family, view| (uplink.uplink.as_str(), family.name(), view);
        let ipv6 = uplink.ipv6.as_ref().map(|view| path(Family::V6, view));
        [Some(path(Family::V4, &uplink.ipv4)), ipv6].into_iter().flatten()
    })
}

/// What is probed of a path, each with its labels.
fn probes<'a>(
    (uplink, family, path): (&'a str, &'static str, &'a PathView),
) -> impl Iterator<Item = ([&'a str; 3], &'a TargetView)> {
    path.targets.iter().map(move |target| ([uplink, family, target.target.as_str()], target))
}

fn add_load(told: &Told, page: &mut Page<'_>) -> fmt::Result {
    let loads = || told.uplinks.iter().filter_map(|it| Some((it.uplink.as_str(), it.load?)));
    page.flag(&UPLINK_SATURATED, loads().map(|(uplink, load)| ([uplink], load.saturated)))?;
    let directions = || {
        loads().flat_map(|(uplink, load)| {
            [("down", load.down), ("up", load.up)].map(|(name, way)| (uplink, name, way))
        })
    };
    let bytes = |bits: u64| bits as f64 / 8.0;
    let load = directions().map(|(uplink, name, way)| ([uplink, name], bytes(way.load)));
    page.gauge(&UPLINK_LOAD, load)?;
    let capacity = directions().filter_map(|(uplink, name, way)| {
        Some(([uplink, name, source(&way)], bytes(way.capacity?)))
    });
    page.gauge(&UPLINK_CAPACITY, capacity)?;
    let base = loads().filter_map(|(uplink, load)| Some(([uplink], load.base_rtt_ms? / 1e3)));
    page.gauge(&UPLINK_BASE_RTT, base)
}

const fn source(direction: &DirectionView) -> &'static str {
    match direction.capacity_from {
        CapacityFrom::Configured => "configured",
        CapacityFrom::Learned => "learned",
        CapacityFrom::Unknown => "unknown",
    }
}

/// What shared memory has of them.
pub fn add(state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let half = &state.snapshot.half;
    let uplinks = || (0u8..).zip(&half.uplinks).take_while(|(_, it)| it.name.0[0] != 0);
    let infos = uplinks().map(|(index, uplink)| {
        let is_its = |port: &&Port| port.is_uplink() && port.uplink == index;
        let port = half.ports.iter().find(is_its);
        let device = port.and_then(|port| half.devices.get(usize::from(port.device)));
        [uplink.name.as_str(), device.map_or("-", |device| device.name.as_str())]
    });
    page.info(&UPLINK, infos)?;
    let name = |it: &weir_layout::control::Uplink| it.name.as_str().to_owned();
    page.gauge(&UPLINK_WEIGHT, uplinks().map(|(_, it)| ([name(it)], it.weight.into())))?;
    page.flag(&UPLINK_DRAINING, uplinks().map(|(_, it)| ([name(it)], it.drain_until != 0)))?;

    let paths: Vec<Path<'_>> = uplinks()
        .flat_map(|(index, _)| Family::ALL.map(|family| PathId::new(index, family)))
        .filter(|path| state.has_path(*path))
        .map(|id| Path {
            labels: [half.uplinks[usize::from(id.uplink)].name.as_str(), id.family.name()],
            word: state.region.path_state(id),
            since_s: half.uplinks[usize::from(id.uplink)].path(id.family).since,
            counters: state.counters.path(id),
        })
        .collect();
    add_paths(&paths, page)
}

struct Path<'a> {
    labels: [&'a str; 2],
    word: u32,
    since_s: u64,
    counters: PathCounters,
}

fn add_paths(paths: &[Path<'_>], page: &mut Page<'_>) -> fmt::Result {
    let up = |path: &Path<'_>| path.word & path_state::USABLE != 0;
    page.flag(&PATH_UP, paths.iter().map(|path| (path.labels, up(path))))?;
    let conditions = paths.iter().flat_map(|Path { labels: [uplink, family], word, .. }| {
        words::REASONS.iter().map(move |(bit, name)| ([*uplink, *family, *name], word & bit != 0))
    });
    page.flag(&PATH_CONDITION, conditions)?;
    page.gauge(&PATH_CHANGED, paths.iter().map(|path| (path.labels, path.since_s as f64)))?;
    // Read while it changes, the sum over workers may be below zero.
    let flows = |path: &Path<'_>| path.counters.flows_active.cast_signed().max(0) as f64;
    page.gauge(&PATH_FLOWS, paths.iter().map(|path| (path.labels, flows(path))))?;
    let counters: [Figure<'_, PathCounters>; 7] = [
        (&PATH_CREATED, |it| it.flows_created),
        (&PATH_TX_PACKETS, |it| it.tx_packets),
        (&PATH_TX_BYTES, |it| it.tx_bytes),
        (&PATH_RX_PACKETS, |it| it.rx_packets),
        (&PATH_RX_BYTES, |it| it.rx_bytes),
        (&PATH_SEGMENTS, |it| it.segments),
        (&PATH_RETRANSMITTED, |it| it.retransmitted),
    ];
    counters.into_iter().try_for_each(|(metric, of)| {
        page.count(metric, paths.iter().map(|path| (path.labels, of(&path.counters))))
    })
}
