//! What another file would do: what would have a reload refuse it has this, and what would be
//! published goes to a copy of the gateway.

use std::path::Path;

use anyhow::{Context, Result};
use weir_api::{Query, Response, time};
use weir_explain::{Forecast, Reload, Replica};
use weir_publish::{Delegations, Lease, Overrides, beside};
use weir_shm::Pins;
use weir_shm::control::Snapshot;
use weir_site::{Problem, Site};

use super::output::Invalid;
use super::state::published;
use super::{Arguments, act};

/// Says what a file would do to flows and to the shares of new ones.
///
/// # Errors
/// When it would be refused, or nothing is published.
pub fn forecast(arguments: &Arguments, pins: &Pins, file: &Path) -> Result<Forecast> {
    let name = file.display().to_string();
    let mut site = weir_site::load(file).map_err(|problems| refused(&name, &problems))?;
    let state = published(pins)?;
    let Snapshot { half, .. } = &*state.snapshot;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let read = runtime.block_on(act::view(&site));
    let kernel = read.context("what the kernel has cannot be read: run as root on the gateway")?;
    let mut notes = beside::admit(&site, &kernel, &name).map_err(|why| invalid(&name, &why))?;
    beside::check_order(&site, half).map_err(|why| invalid(&name, &why))?;
    notes.extend(asked_for(arguments, &mut site));
    let overrides = Overrides::adopt(&site, &state.region, &state.snapshot);
    let derived = beside::derived(&site, &kernel, &overrides, Some(half));
    let derived = derived.map_err(|why| invalid(&name, &why))?;
    notes.extend(beside::warnings(&site, half, true));
    let reload = Reload {
        file: name,
        half: derived.half,
        problems: derived.problems,
        sets: site.sets.ranges(),
        restarts: beside::other_workers(&site, half).is_some(),
        notes,
    };
    Replica::of_pinned(pins, time::monotonic_ms() as u32)?.what_if_reloaded(reload)
}

fn refused(name: &str, problems: &[Problem]) -> anyhow::Error {
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    invalid(name, &problems.join("\n"))
}

fn invalid(name: &str, why: &str) -> anyhow::Error {
    Invalid(format!("{name} would be refused:\n{why}")).into()
}

/// Gives a site the prefixes that providers delegate, which the control process was told of; what
/// is not known, for a note.
fn asked_for(arguments: &Arguments, site: &mut Site) -> Vec<String> {
    let mut notes = Vec::new();
    let now = time::monotonic_ms();
    match weir_api::ask(&arguments.socket, &Query::Delegated) {
        Ok(Response::Delegated { uplinks }) => {
            let mut delegations = Delegations::default();
            let until = |seconds: Option<u64>| seconds.map(|seconds| now + seconds * 1000);
            for (uplink, told) in
                uplinks.iter().flat_map(|of| of.prefixes.iter().map(move |p| (of, p)))
            {
                let lease = Lease {
                    prefix: told.prefix,
                    valid_until: until(told.valid_s),
                    preferred_until: until(told.preferred_s),
                };
                delegations.set(&uplink.uplink, lease);
            }
            delegations.fill(site, now);
        }
        _ => notes.push("weir-control does not answer: delegated prefixes are left out".into()),
    }
    let mapped = weir_api::ask(&arguments.socket, &Query::Mapped);
    if matches!(&mapped, Ok(Response::Mapped { mappings }) if !mappings.is_empty()) {
        notes.push("ports that hosts have asked for are left out: as if they had ended".into());
    }
    notes
}
