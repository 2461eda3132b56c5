//! What follows from each event: decided, carried out, and what takes its time of it after.

use std::time::Duration;

use weir_api::time;
use weir_kernel::own;
use weir_kernel::watch::Watcher;
use weir_publish::Now;
use weir_view::own::Own;

use super::Daemon;

/// What workers get of the CPU when an uplink's state changed, before hooks run and routes follow.
const HEAD_START: Duration = Duration::from_millis(1);

impl Daemon {
    /// Publishes, has hooks told, and makes the kernel's rules and routes follow; the epoch in force.
    pub(super) async fn enforce(&mut self, watcher: &Watcher) -> u64 {
        let epoch = self.publish();
        if self.executor.take_flipped() {
            // A worker that shares this CPU has flows to move. It would not get it otherwise: this
            // process has priority, and what is left here is work of the kernel too.
            tokio::time::sleep(HEAD_START).await;
        }
        self.executor.run_hooks(self.decider.site());
        self.route(watcher).await;
        epoch
    }

    /// Decides by all that is known, and publishes what is other than before; the epoch in force.
    pub(super) fn publish(&mut self) -> u64 {
        self.drain_probes();
        for interface in self.executor.words.lost_carriers() {
            self.decider.lose_carrier(interface);
        }
        self.decider.refuse(self.dataplane.refused());
        let now = Now { ms: time::monotonic_ms(), boot_s: time::boot_s(), unix_ms: time::now_ms() };
        self.executor.writer.heartbeat(std::process::id().into(), now.ms);
        self.expire_prefixes(now.ms);
        if let Some(mappings) = self.port_mapper.take() {
            self.decider.map(mappings);
        }
        let judged = self.decider.judge(now);
        self.executor.store_words(&self.decider);
        let counters = &self.counters;
        let effects = self.decider.place(judged, |path| counters.path(path).flows_active);
        let epoch = self.executor.carry_out(effects, &mut self.decider);
        let hooks = self.decider.site().hooks.clone();
        self.executor.advertisers.follow(self.decider.advertised(), hooks);
        self.port_mapper.follow(self.decider.situation());
        epoch
    }

    /// Makes the kernel's rules and routes follow what is published.
    async fn route(&mut self, watcher: &Watcher) {
        if !self.keeper.keeps() {
            return;
        }
        let own_traffic = self.decider.site().own_traffic;
        let wanted = match own_traffic {
            true => self.decider.own_traffic(),
            false => Some(self.decider.kernel().own.of_commands(&self.confined.uplinks())),
        };
        let Some(wanted) = wanted else { return };
        let mut known = Own::clone(&self.decider.kernel().own);
        let removed = self.installed.difference(&known.rules).count();
        if removed > 0 {
            tracing::warn!("{removed} of weir's rules (ip rule) were removed by others: put back");
        }
        let done =
            self.meanwhile(own::install(&wanted, &mut known, watcher.handle())).await.flatten();
        // Those that were refused are not missed.
        self.installed = wanted.rules.intersection(&known.rules).cloned().collect();
        self.decider.own_made(known, done.is_ok());
        let trouble = |error| format!("not all own traffic follows its uplinks: {error:#}");
        if done.is_ok() && !own_traffic {
            self.keeper.release();
        }
        self.unrouted.say(done.err().map(trouble));
    }

    /// The kernel is set to forward only where the guard keeps it from doing so on its own.
    pub(super) fn hold_sysctls(&mut self) {
        let site = self.decider.site();
        if site.sysctls {
            let nat_ports = site.translates_ports().then_some(site.nat_ports);
            self.sysctls.hold(nat_ports, self.executor.guard.stands());
        }
    }
}
