//! Another file: what is asked of it, and what changes with it.

use std::path::Path;

use anyhow::{Result, bail};
use weir_service::WrongConfiguration;
use weir_wire::layout::control::ControlHalf;

use super::Daemon;
use crate::home::Homing;
use crate::implied;
use crate::publish;
use crate::serve;
use crate::site::{self, Site};
use crate::time;
use crate::watch::Kernel;

impl Daemon {
    /// Takes over a changed file, or says in the log why not.
    pub(super) fn hang_up(&mut self) {
        match self.reload() {
            Ok(done) => tracing::info!("{done}"),
            Err(error) => {
                tracing::error!("configuration not reloaded, the old one stays:\n{error:#}");
            }
        }
    }

    /// Takes over a changed file, with what is set by hand for what is still there. Refused, it
    /// changes nothing.
    pub(super) fn reload(&mut self) -> Result<String> {
        self.hear_waiting();
        let half = self.half.as_deref();
        let uplinks: Vec<_> = self.site.uplinks.iter().map(|u| u.name.as_str()).collect();
        let policies: Vec<_> = self.site.policies.iter().map(|p| p.name.as_str()).collect();
        let carry = |site: &Site| self.overrides.carry(&uplinks, &policies, site);
        let mut site = self.source.read(|site, path| {
            admit(site, &self.kernel, path)?;
            keep_order(site, half)?;
            if site.own_traffic {
                self.keeper.take()?;
            }
            let derived = publish::derive(site, &self.kernel, &carry(site), &[], half);
            match publish::weightless(&derived.half, site.policies.len()) {
                None => Ok(()),
                Some(policy) => bail!(
                    "with the weights that are set by hand, those of policy {policy} add up to \
                     zero: `weir overrides` lists them"
                ),
            }
        })?;
        let carried = carry(&site);
        implied::imply(&mut site, &self.kernel);
        if site.hash != self.site.hash {
            self.homing = vec![Homing::default(); site.policies.len()];
            self.since.resize(site.uplinks.len(), 0);
            self.states.resize(site.uplinks.len(), 0);
        }
        self.overrides = carried;
        self.monitor.reconfigure(&site, time::monotonic_ms());
        self.load.reconfigure(&site);
        self.site = site;
        self.routed = None;
        self.guard.follow(&self.site, &self.kernel);
        if let Err(error) = serve::share(&self.socket, self.site.group.as_deref()) {
            tracing::warn!("{error:#}");
        }
        let here = site::warnings_here(&self.site, &self.kernel);
        let warnings = self.site.warnings.iter().chain(&here);
        let warnings: String = warnings.map(|warning| format!("\nwarning: {warning}")).collect();
        Ok(format!("configuration reloaded{warnings}"))
    }
}

/// What takes one LAN or one uplink out of use keeps the others from nothing.
pub(super) fn admit(site: &Site, kernel: &Kernel, path: &Path) -> Result<()> {
    let problems = site::against_kernel(site, kernel, &path.display().to_string());
    let (passing, lasting): (Vec<_>, _) = problems.into_iter().partition(|p| p.passing);
    passing.iter().for_each(|problem| tracing::warn!("{problem}"));
    let text: Vec<_> = lasting.iter().map(ToString::to_string).collect();
    if text.is_empty() { Ok(()) } else { bail!("{}", text.join("\n")) }
}

/// Flows name uplinks by their place in the file that is published.
pub(super) fn keep_order(site: &Site, published: Option<&ControlHalf>) -> Result<()> {
    match published.map(|half| publish::check_order(site, half)) {
        Some(Err(error)) => Err(WrongConfiguration(error).into()),
        _ => Ok(()),
    }
}
