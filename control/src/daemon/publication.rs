//! What follows from all that is known: the control page, hooks, rules and routes.

use std::time::Duration;

use anyhow::Result;
use weir_api::{time, words};
use weir_kernel::own;
use weir_kernel::watch::Watcher;
use weir_layout::Family;
use weir_layout::control::{ControlHalf, Member, PathId, Tier, Translate, path_state};
use weir_publish::guard::{Seen, ruleset};
use weir_publish::{Change, Published, hosts, implied};
use zerocopy::IntoBytes;

use super::Daemon;

/// What workers get of the CPU when an uplink's state changed, before hooks run and routes follow.
const HEAD_START: Duration = Duration::from_millis(1);

impl Daemon {
    /// Has the next hops probed that the kernel names now, where no targets are configured.
    pub(super) fn imply(&mut self) {
        if implied::imply(&mut self.site, &self.kernel) {
            self.monitor.reconfigure(&self.site, time::monotonic_ms());
        }
    }

    /// Publishes, has hooks told, and makes the kernel's rules and routes follow; the epoch in force.
    pub(super) async fn enforce(&mut self, watcher: &Watcher) -> Result<u64> {
        let epoch = self.publish()?;
        if std::mem::take(&mut self.flipped) {
            // A worker that shares this CPU has flows to move. It would not get it otherwise: this
            // process has priority, and what is left here is work of the kernel too.
            tokio::time::sleep(HEAD_START).await;
        }
        self.run_hooks();
        self.route(epoch, watcher).await;
        Ok(epoch)
    }

    pub(super) fn derive(&self) -> Published {
        let last = self.half.as_deref();
        weir_publish::derive(&self.site, &self.kernel, &self.overrides, self.states.since(), last)
    }

    /// Publishes if anything differs from what is published; the epoch in force.
    pub(super) fn publish(&mut self) -> Result<u64> {
        self.hear_waiting();
        for interface in self.words.lost_carriers() {
            self.kernel.lose_carrier(interface);
            self.cut.push(interface);
        }
        let now = time::monotonic_ms();
        self.writer.heartbeat(std::process::id().into(), now);
        self.overrides.expire(time::boot_s());
        let mut published = self.derive();
        self.dataplane.mark(&mut published);
        self.monitor.observe(&published.problems, now);
        self.monitor.tick(now);
        self.write_down(now);
        let policies = &published.half.policies;
        let verdict = self.monitor.verdict(&self.site, |policy| {
            let members = policies[policy].members().iter();
            let weighty = members.filter(|member| member.weight & Member::MAX_WEIGHT != 0);
            weighty.fold(0, |set, member| set | 1 << (member.uplink & 63))
        });
        let decided = verdict.states.iter().enumerate().map(|(index, state)| {
            state | if self.load.saturated(index) { path_state::SATURATED } else { 0 }
        });
        let changes = self.states.decide(decided, time::now_s());
        for (index, word) in (0u8..).zip(self.states.words()) {
            if self.writer.region().path_state(PathId::v4(index)) != *word {
                // Existing flows obey at once; new ones with the buckets below.
                self.words.set(index, *word);
            }
        }
        for (uplink, since) in published.half.uplinks.iter_mut().zip(self.states.since()) {
            uplink.path_mut(Family::V4).since = *since;
        }
        self.flipped |= changes.iter().any(Change::flips);
        changes.iter().for_each(|change| self.tell_state(change));
        self.words.know(&self.site, &self.kernel);
        self.tell_shortages(&published.half);
        self.keep(published.hosts);
        self.unresolved = published.unresolved;
        let load = &mut self.load;
        let place = |policy: usize, members: &[_], takers| load.place(policy, members, takers, now);
        let moved = self.tables.update(&mut published.half, &verdict.takers, place);
        self.bring_home(&mut published.half, now);
        let same = !moved && self.half.as_ref().is_some_and(|old| same(old, &published.half));
        if same {
            return Ok(self.writer.region().epoch());
        }
        // The comparison above must not see what publishing fills in.
        self.half = Some(published.half.clone());
        let epoch = self.writer.publish(&mut published.half, [&self.tables.live(), &[]]);
        for (policy, table) in self.tables.homes() {
            self.writer.save_home(Family::V4, policy, table);
        }
        tracing::debug!(epoch, "published");
        Ok(epoch)
    }

    fn tell_state(&self, change: &Change) {
        let name = &self.site.uplinks[change.uplink].name;
        let (before, state) = (words::state(change.from), words::state(change.to));
        if change.takes_out() {
            tracing::warn!(uplink = name, before, state, "out of use");
        } else {
            tracing::info!(uplink = name, before, state, "uplink state");
        }
    }

    /// Says what keeps XDP from transmitting by the devices that are used.
    fn tell_shortages(&mut self, half: &ControlHalf) {
        if half.tier != Tier::Kernel as u8 {
            return;
        }
        for device in half.devices.iter().filter(|device| device.ifindex != 0) {
            if let Some(link) = self.kernel.link_at(device.ifindex) {
                let trouble = link.shortage.as_ref().map(ToString::to_string);
                self.short.entry(link.index).or_default().say(trouble);
            }
        }
    }

    /// Enters the destinations that stay on the gateway, and has the guard let pass what of them is
    /// near an uplink. What fails is tried again with the next publication.
    fn keep(&mut self, sources: hosts::Sources) {
        if self.known_hosts.as_ref() == Some(&sources) {
            return;
        }
        self.follow_guard();
        let hosts = sources.prefixes();
        let room = self.hosts.room();
        let done = self.hosts.sync(&hosts);
        let trouble = match &done {
            Ok(0) if hosts.len() <= room / 10 * 9 => None,
            Ok(0) => Some(format!(
                "there is room for {room} prefixes that are not routed by an uplink, and more than \
                 nine tenths are taken"
            )),
            Ok(_) => Some(format!(
                "there is room for {room} prefixes that are not routed by an uplink, and there are \
                 more: packets from a LAN to some of them leave by uplinks"
            )),
            Err(error) => Some(format!("not all destinations stay on the gateway: {error}")),
        };
        self.crowded.say(trouble);
        self.known_hosts = done.is_ok().then_some(sources);
    }

    /// Has the guard's table follow the site, and what it takes from the kernel.
    pub(super) fn follow_guard(&self) {
        let seen = Seen::of(&self.site, &self.kernel);
        self.guard.follow(ruleset(self.guard.table(), &self.site, &seen));
    }

    /// Says of each policy which of its flows come home.
    fn bring_home(&mut self, half: &mut ControlHalf, now: u64) {
        let policies = self.site.policies.iter().zip(&mut self.homing).zip(&mut half.policies);
        for ((policy, homing), published) in policies {
            let published = published.steering_mut(Family::V4);
            let active = published.active_tier;
            let worse = policy.members.iter().filter(|member| member.tier > active);
            let flows = worse.map(|m| self.counters.uplink(m.uplink).flows_active);
            // Flows that come and go while they are counted may make it less than none.
            let away = flows.fold(0, u64::saturating_add);
            let come_home = homing.come_home(policy.failback, active, away, now);
            published.come_home = come_home as u8;
        }
    }

    /// Makes the kernel's rules and routes follow what is published under `epoch`.
    async fn route(&mut self, epoch: u64, watcher: &Watcher) {
        let Some(half) = self.half.as_ref().filter(|_| self.keeper.keeps()) else { return };
        let states = (0..self.site.uplinks.len() as u8)
            .map(|i| self.writer.region().path_state(PathId::v4(i)));
        let made_for = Some((epoch, states.collect::<Vec<u32>>()));
        if self.site.own_traffic && self.routed == made_for {
            return;
        }
        let states = made_for.as_ref().map_or(&[][..], |(_, states)| states);
        let wanted = match self.site.own_traffic {
            true => weir_publish::own::wanted(&self.site, &self.kernel, half, states),
            false => self.kernel.own.of_commands(&self.confined.uplinks()),
        };
        let removed = self.installed.difference(&self.kernel.own.rules).count();
        if removed > 0 {
            tracing::warn!("{removed} of weir's rules (ip rule) were removed by others: put back");
        }
        let mut known = std::mem::take(&mut self.kernel.own);
        let done =
            self.meanwhile(own::install(&wanted, &mut known, watcher.handle())).await.flatten();
        // Those that were refused are not missed.
        self.installed = wanted.rules.intersection(&known.rules).cloned().collect();
        self.kernel.own = known;
        self.routed = made_for.filter(|_| done.is_ok());
        let trouble = |error| format!("not all own traffic follows its uplinks: {error:#}");
        if done.is_ok() && !self.site.own_traffic {
            self.keeper.release();
        }
        self.unrouted.say(done.err().map(trouble));
    }

    /// The kernel is set to forward only where the guard keeps it from doing so on its own.
    pub(super) fn hold_sysctls(&mut self) {
        if self.site.sysctls {
            let translates = |uplink: &weir_site::Uplink| uplink.translate == Translate::Nat44;
            let translated = self.site.uplinks.iter().any(translates);
            let nat_ports = translated.then_some(self.site.nat_ports);
            self.sysctls.hold(nat_ports, &self.writer, self.guard.stands());
        }
    }
}

/// Equal but for what publishing fills in.
fn same(old: &ControlHalf, new: &ControlHalf) -> bool {
    old.as_bytes() == new.as_bytes()
}
