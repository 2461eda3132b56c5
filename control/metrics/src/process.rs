//! The two processes, the configuration, and what a collector of flows is told.

use std::fmt;

use weir_shm::Role;
use weir_shm::process::Process;

use crate::metric::{
    BUILD, EPOCH, IPFIX_LOST, IPFIX_SENT, PORT_MAPPINGS, PROCESS_SILENCE, PROCESS_UP, RELOAD_OK,
    RELOAD_TIME, START_TIME,
};
use crate::page::{NONE, Page};
use crate::{FlowExport, Scrape};

pub fn add(scrape: &Scrape, page: &mut Page<'_>) -> fmt::Result {
    let told = &scrape.told;
    page.info(&BUILD, [[env!("CARGO_PKG_VERSION")]])?;
    page.gauge(&START_TIME, [(NONE, told.started_ms as f64 / 1e3)])?;
    let processes = || scrape.processes.iter();
    page.flag(&PROCESS_UP, processes().map(|it| ([name(it)], it.answers())))?;
    // One that has never been here was not silent since the machine started.
    let known = processes().filter(|it| it.pid != 0);
    page.gauge(&PROCESS_SILENCE, known.map(|it| ([name(it)], it.silence_ms as f64 / 1e3)))?;
    let epoch = scrape.published.iter().map(|state| (NONE, state.snapshot.half.epoch as f64));
    page.gauge(&EPOCH, epoch)?;
    page.flag(&RELOAD_OK, [(NONE, !told.refused)])?;
    page.gauge(&RELOAD_TIME, [(NONE, told.taken_s as f64)])?;
    page.gauge(&PORT_MAPPINGS, [(NONE, told.mapped as f64)])
}

pub fn add_flow_export(told: Option<&FlowExport>, page: &mut Page<'_>) -> fmt::Result {
    page.count(&IPFIX_SENT, told.iter().map(|told| (NONE, told.sent)))?;
    let lost = |told: &&FlowExport| [(["unsent"], told.unsent), (["unread"], told.unread)];
    page.count(&IPFIX_LOST, told.iter().flat_map(lost))
}

fn name(process: &Process) -> &'static str {
    match process.role {
        Role::Control => "control",
        Role::Dataplane => "dataplane",
    }
}
