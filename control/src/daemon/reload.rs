//! Another file: what is asked of it, and what changes with it.

use std::path::Path;

use anyhow::{Error, Result};
use weir_api::{Request, time};
use weir_kernel::watch::Watcher;
use weir_layout::control::ControlHalf;
use weir_publish::beside;
use weir_service::WrongConfiguration;
use weir_site::Site;
use weir_view::Kernel;

use super::Daemon;
use crate::serve;

impl Daemon {
    /// Takes over a changed file, or says in the log why not.
    pub(super) async fn hang_up(&mut self, watcher: &mut Watcher) {
        match self.reload(watcher).await {
            Ok(_) => {
                tracing::info!("configuration reloaded");
                self.write_down(format!("{} (SIGHUP)", Request::Reload), None);
            }
            Err(error) => {
                tracing::error!("configuration not reloaded, the old one stays:\n{error:#}");
            }
        }
    }

    /// Takes over a changed file, with what is set by hand for what is still there; what is allowed
    /// and to be known, which is in the log too. Refused, it changes nothing.
    pub(super) async fn reload(&mut self, watcher: &mut Watcher) -> Result<Vec<String>> {
        // A file that asks for IPv6 is judged by what there is of it.
        let has_ipv6 = self.source.either().is_ok_and(|site| site.has_ipv6());
        watcher.follow_ipv6(has_ipv6 || self.decider.site().has_ipv6());
        self.see(watcher).await;
        self.drain_probes();
        let decider = &self.decider;
        let (known, kernel, half) = (decider.site(), decider.kernel(), decider.half());
        let uplinks: Vec<_> = known.uplinks.iter().map(|u| u.name.as_str()).collect();
        let policies: Vec<_> = known.policies.iter().map(|p| p.name.as_str()).collect();
        let carry = |site: &Site| decider.overrides().carry(&uplinks, &policies, site);
        let mut warnings = Vec::new();
        let site = self.source.read(|site, path| {
            warnings = admit(site, kernel, path)?;
            keep_order(site, half)?;
            if site.own_traffic {
                self.keeper.take()?;
            }
            beside::derived(site, kernel, &carry(site), half).map(drop).map_err(Error::msg)
        })?;
        let forwards = self.dataplane.runs();
        // What runs has its tables, which the half that was decided has not.
        let runs = self.executor.writer.region().snapshot();
        let runs = runs.iter().map(|snapshot| &*snapshot.half);
        warnings.extend(runs.flat_map(|half| beside::warnings(&site, half, forwards)));
        let carried = carry(&site);
        self.decider.reconfigure(site, carried, time::monotonic_ms());
        warnings.extend(self.end_clashing_prefixes());
        let (site, kernel) = (self.decider.site(), self.decider.kernel());
        if let Err(error) = serve::share(&self.socket, site.group.as_deref()) {
            tracing::warn!("{error:#}");
        }
        self.nat_log.follow(site);
        self.flow_exporter.follow(site);
        self.exporter.follow(site);
        warnings.extend_from_slice(&site.warnings);
        warnings.extend(weir_site::warnings_here(site, kernel));
        let region = self.executor.writer.region();
        warnings.extend(site.taken(|port| region.is_bound(port)));
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(warnings)
    }
}

/// Refuses what a gateway cannot run with. What takes one LAN or one uplink out of use keeps the
/// others from nothing, and is returned.
pub(super) fn admit(site: &Site, kernel: &Kernel, path: &Path) -> Result<Vec<String>> {
    beside::admit(site, kernel, &path.display().to_string()).map_err(Error::msg)
}

/// Flows name uplinks by their place in the file that is published.
pub(super) fn keep_order(site: &Site, published: Option<&ControlHalf>) -> Result<()> {
    match published.map(|half| beside::check_order(site, half)) {
        Some(Err(error)) => Err(WrongConfiguration(error).into()),
        _ => Ok(()),
    }
}
