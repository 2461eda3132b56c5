//! `weir status`.

use anyhow::Result;
use serde_json::json;
use weir_api::{Configuration, Query, Response, time};
use weir_layout::Family;
use weir_layout::control::ControlHalf;
use weir_layout::status::StatusPage;
use weir_shm::Pins;
use weir_shm::map::Access;
use weir_shm::nat_log::NatLog;
use weir_shm::process::Process;
use weir_shm::status::Status;
use zerocopy::FromZeros;

use super::state::published;
use super::table::table;
use super::uplinks::{uplink_values, uplinks_table};
use super::{Arguments, advertised, devices, output, processes};

/// `weir status`; and whether both processes run and answer.
pub fn status(arguments: &Arguments, pins: &Pins) -> Result<(String, bool)> {
    let state = published(pins)?;
    let configuration = match weir_api::ask(&arguments.socket, &Query::Configuration) {
        Ok(Response::Configuration { configuration }) => Some(configuration),
        _ => None,
    };
    let advertised = match &configuration {
        Some(_) => advertised::lans(arguments),
        None => Vec::new(),
    };
    // After that: a process which is stopped has been silent for as long as was waited for it.
    let page = match Status::open(pins, Access::Read) {
        Ok(status) => status.read(),
        // No dataplane has been here yet.
        Err(weir_shm::Error::Missing { .. }) => {
            StatusPage::new_box_zeroed().expect("memory for a page")
        }
        Err(error) => return Err(error.into()),
    };
    let now_ms = time::monotonic_ms();
    let control = Process::control(pins, &state.region, now_ms)?;
    let dataplane = Process::dataplane(pins, &page, now_ms)?;
    let well = control.answers() && dataplane.answers();
    let devices = devices::values(&state.snapshot.half, &page, dataplane.runs);
    let workers = if dataplane.runs { page.workers } else { 0 };
    let flows: u64 = page.worker.iter().take(workers as usize).map(|w| w.flows).sum();
    let nat_log = nat_log(&state.snapshot.half, pins);
    if arguments.json {
        let mut of_dataplane = processes::value(&dataplane);
        of_dataplane["workers"] = workers.into();
        of_dataplane["tap_refused"] = page.tap_refused.into();
        let value = json!({
            "configuration": configuration,
            "control": processes::value(&control),
            "dataplane": of_dataplane,
            "epoch": state.region.epoch(),
            "flows": flows,
            "flow_slots": page.flows[Family::V4.index()].size / 64,
            "devices": devices,
            "without_flows": without_flows(&state.snapshot.half),
            "advertisements": advertised,
            "nat_log": nat_log.as_ref().map(|(lost, error)| {
                json!({ "lost": lost, "error": error.as_ref().map(ToString::to_string) })
            }),
            "uplinks": uplink_values(&state),
        });
        return Ok((output::json("status", value), well));
    }
    let mut text = processes::line(&control, "");
    text += &processes::line(&dataplane, &format!(", {workers} workers, {flows} flows"));
    if page.tap_refused > 0 {
        text +=
            &format!("{:<10} {} packets, for devices that were down\n", "lost", page.tap_refused);
    }
    text += &format!("{:<10} {}\n", "epoch", state.region.epoch());
    for family in without_flows(&state.snapshot.half) {
        text += &format!("{family:<10} forwarded without flows\n");
    }
    text += &nat_log.map(|(lost, error)| nat_log_line(lost, error.as_ref())).unwrap_or_default();
    text += &configuration.as_ref().map(source).unwrap_or_default();
    text += "\n";
    text += &table(
        &devices,
        &["interface", "state", "why", "xdp", "mode", "sockets", "mtu", "rx_lost"],
    );
    if !advertised.is_empty() {
        text += "\n";
        text += &advertised::lines(&advertised);
    }
    text += "\n";
    text += &uplinks_table(pins)?;
    Ok((text, well))
}

/// Of the log of NAT allocations, if there is one: records that were lost, and why it cannot be
/// written.
fn nat_log(half: &ControlHalf, pins: &Pins) -> Option<(u64, Option<std::io::Error>)> {
    if half.nat_log == 0 {
        return None;
    }
    let log = NatLog::open(pins, Access::Read).ok()?;
    let error = (log.error() != 0).then(|| std::io::Error::from_raw_os_error(log.error() as i32));
    Some((log.lost(), error))
}

fn nat_log_line(lost: u64, error: Option<&std::io::Error>) -> String {
    let written = match error {
        Some(error) => format!("CANNOT BE WRITTEN: {error}"),
        None => "written".to_owned(),
    };
    format!("{:<10} {written}, {lost} records lost\n", "NAT log")
}

/// The families whose packets need no flows.
fn without_flows(half: &ControlHalf) -> Vec<&'static str> {
    let families = Family::ALL.into_iter().filter(|family| half.stateless(*family).is_some());
    families.map(Family::name).collect()
}

/// The file that is in force, and if the one that was given is not, why.
fn source(configuration: &Configuration) -> String {
    let mut text = format!("{:<10} {}\n", "file", configuration.in_force);
    if let Some(refused) = &configuration.refused {
        let now = match configuration.in_force == configuration.file {
            true => "as it was before",
            false => "the last good one",
        };
        text += &format!(
            "{:<10} {} is REFUSED since {}, in force is {now}:\n",
            "",
            configuration.file,
            time::of_day(refused.time_s)
        );
        for line in refused.why.lines() {
            text += &format!("{:<10} {line}\n", "");
        }
    }
    text
}
