//! Devices, workers, LANs.

use std::fmt;

use weir_api::{time, words};
use weir_layout::control::Device;
use weir_layout::counters::Counter;
use weir_layout::status::{DeviceStatus, WorkerStatus};
use weir_layout::{Family, MAX_WORKERS};
use weir_shm::published::Published;

use crate::Scrape;
use crate::metric::*;
use crate::page::{Figure, NONE, Page};

pub fn add(scrape: &Scrape, state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let slots = Family::ALL.map(|family| {
        let (header, entry) = (scrape.page.flows[family.index()], [64, 128][family.index()]);
        ([family.name()], header.size as f64 / f64::from(entry))
    });
    page.gauge(&TABLE_SLOTS, slots.into_iter().filter(|(_, slots)| *slots > 0.0))?;
    add_devices(scrape, state, page)?;
    page.count(&TAP_REFUSED, [(NONE, scrape.page.tap_refused)])?;
    add_workers(scrape, state, page)
}

pub fn add_lans(scrape: &Scrape, page: &mut Page<'_>) -> fmt::Result {
    page.flag(&LAN_UP, scrape.told.lans.iter().map(|(lan, up)| ([lan], *up)))
}

fn add_devices(scrape: &Scrape, state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let half = &state.snapshot.half;
    let all = || half.devices.iter().zip(&scrape.page.devices);
    let named = || all().filter(|(device, _)| device.name.0[0] != 0);
    let name = |device: &Device| device.name.as_str().to_owned();
    let infos = named().map(|(device, status)| {
        [name(device), words::xdp(status).to_owned(), words::socket_mode(status).to_owned()]
    });
    page.info(&DEVICE, infos)?;
    let runs = scrape.dataplane().runs;
    let is_up = |device, status| words::device(device, status, runs) == "attached";
    page.flag(&DEVICE_UP, named().map(|(device, it)| ([name(device)], is_up(device, it))))?;
    // What was said of another interface is not said of this one.
    let known = || named().filter(|(device, status)| status.ifindex == device.ifindex);
    let lost = known().flat_map(|(device, status)| {
        let reasons = [("ring_full", status.rx_ring_full), ("other", status.rx_dropped)];
        reasons.map(|(reason, lost)| ([name(device), reason.to_owned()], lost))
    });
    page.count(&DEVICE_LOST, lost)?;
    let counters: [Figure<'_, DeviceStatus>; 3] = [
        (&DEVICE_FILL_EMPTY, |it| it.fill_ring_empty),
        (&DEVICE_TX, |it| it.tx_completed),
        (&DEVICE_TX_LOST, |it| it.tx_invalid),
    ];
    counters.into_iter().try_for_each(|(metric, of)| {
        page.count(metric, known().map(|(device, status)| ([name(device)], of(status))))
    })
}

fn add_workers(scrape: &Scrape, state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let count = if scrape.dataplane().runs { scrape.page.workers } else { 0 };
    page.gauge(&WORKERS, [(NONE, count as f64)])?;
    let count = (count as usize).min(MAX_WORKERS);
    let workers: Vec<(u8, &WorkerStatus)> = (0u8..).zip(&scrape.page.worker).take(count).collect();
    let of = |counter| {
        workers
            .iter()
            .map(move |(id, _)| ([id.to_string()], state.counters.of_worker(*id, counter)))
    };
    page.count(&WORKER_RECEIVED, of(Counter::UserRx))?;
    page.count(&WORKER_SENT, of(Counter::UserTx))?;
    let drops = || Counter::ALL.iter().filter(|it| it.is_drop() && !it.is_xdp_drop());
    let dropped = workers.iter().map(|(id, _)| {
        let dropped = drops().map(|counter| state.counters.of_worker(*id, *counter)).sum();
        ([id.to_string()], dropped)
    });
    page.count(&WORKER_DROPPED, dropped)?;
    let now = time::monotonic_ms();
    let silence = |worker: &WorkerStatus| now.saturating_sub(worker.heartbeat_ms) as f64 / 1e3;
    let turned = workers.iter().filter(|(_, worker)| worker.heartbeat_ms != 0);
    page.gauge(&WORKER_SILENCE, turned.map(|(id, it)| ([id.to_string()], silence(it))))?;
    let gauges: [Figure<'_, WorkerStatus>; 4] = [
        (&WORKER_FLOWS, |it| it.flows),
        (&WORKER_FRAMES, |it| it.frames),
        (&WORKER_FRAMES_ACCOUNTED, |it| it.frames_accounted),
        (&WORKER_EPOCH, |it| it.epoch),
    ];
    gauges.into_iter().try_for_each(|(metric, of)| {
        page.gauge(metric, workers.iter().map(|(id, it)| ([id.to_string()], of(it) as f64)))
    })
}
