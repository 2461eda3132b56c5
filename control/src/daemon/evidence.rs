//! What probes, users' connections and counters show of the uplinks.

use weir_api::time;
use weir_health::{PassiveCounts, Signal};
use weir_layout::Family;
use weir_layout::control::PathId;
use weir_service::Complaint;

use super::Daemon;
use crate::probe::{self, Binding, ProbedUplink};

impl Daemon {
    /// What is to be probed of each path, and from where. An uplink without its interface or its carrier is not:
    /// nothing leaves by it.
    pub(super) fn probes(&self) -> Vec<ProbedUplink<'_>> {
        let kernel = self.decider.kernel();
        let mut probed = Vec::new();
        let site = self.decider.site();
        for (index, uplink) in site.uplinks.iter().enumerate() {
            let link = kernel.link(&uplink.interface).filter(|link| link.running);
            let Some(link) = link else { continue };
            let binding = Binding::of(site, uplink, link, kernel);
            let paths = Family::ALL.map(|family| self.decider.monitor(family).path(index));
            probed.extend(paths.into_iter().flatten().map(|path| ProbedUplink {
                name: &uplink.name,
                binding: binding.clone(),
                health: path.health(),
                silent: path.is_silent(),
            }));
        }
        probed
    }

    /// As [`Self::on_probe`], for all that has been found by now. Goes before all that lets time pass
    /// for uplinks: what was answered while this process was busy is no timeout.
    pub(super) fn drain_probes(&mut self) -> bool {
        let mut changed = false;
        while let Ok(event) = self.findings.try_recv() {
            changed |= self.on_probe(&event);
        }
        changed
    }

    /// Takes what a probe has found; says whether the state of a path changed.
    pub(super) fn on_probe(&mut self, event: &probe::Event) -> bool {
        let uplinks = &self.decider.site().uplinks;
        let named = |uplink: &weir_site::UplinkConfig| *uplink.name == *event.uplink;
        let Some(index) = uplinks.iter().position(named) else { return false };
        let of = |family| {
            let path = self.decider.monitor(family).path(index)?;
            Some((PathId::new(index as u8, family), event.signal(path.health())?))
        };
        let Some((path, signal)) = Family::ALL.into_iter().find_map(of) else { return false };
        let kernel = self.decider.kernel();
        let link = kernel.link(&uplinks[index].interface);
        // Without its address or route nothing can be sent; that is no evidence.
        if link.is_some_and(|link| kernel.waits_for(link.index, path.family))
            && !matches!(event.finding, probe::Finding::Reply(_))
        {
            return false;
        }
        let ago = event.at.elapsed().as_millis() as u64;
        self.decider.signal(path, signal, time::monotonic_ms().saturating_sub(ago))
    }

    /// Has probes time out; says whether that changed what is known of an uplink.
    pub(super) fn let_time_pass(&mut self) -> bool {
        let silent = self.decider.silent();
        let heard = self.drain_probes();
        self.decider.tick(time::monotonic_ms()) | heard || self.decider.silent() != silent
    }

    /// Takes what users' connections have shown of each path since the last time.
    pub(super) fn gather_users(&mut self) {
        self.drain_probes();
        let now = time::monotonic_ms();
        let site = self.decider.site();
        let (uplinks, workers) = (site.uplinks.len(), site.workers);
        for family in site.families().collect::<Vec<_>>() {
            let all = self.users.read(family, uplinks, workers, now);
            for (uplink, counts) in (0u8..).zip(&all) {
                if *counts != PassiveCounts::default() {
                    let signal = Signal::Passive(Box::new(*counts));
                    self.decider.signal(PathId::new(uplink, family), signal, now);
                }
            }
        }
    }

    /// Says, once for each time that an uplink's targets are silent, that this machine drops their
    /// answers.
    pub(super) fn tell_dropped(&mut self) {
        let uplinks = &self.decider.site().uplinks;
        let monitors = Family::ALL.map(|family| self.decider.monitor(family));
        self.deaf.resize_with(uplinks.len(), Complaint::default);
        for (index, (uplink, complaint)) in uplinks.iter().zip(&mut self.deaf).enumerate() {
            if !monitors.iter().any(|monitor| monitor.is_silent(index)) {
                complaint.say(None);
            } else if monitors.iter().any(|monitor| monitor.drops_answers(index)) {
                complaint.say(Some(format!(
                    "the targets of uplink {} answer, but this machine drops the answers: its \
                     firewall lacks an input rule such as `ct state established,related accept`",
                    uplink.name
                )));
            }
        }
    }

    /// Measures the load of the uplinks; says whether one became too full or has room again.
    pub(super) fn measure(&mut self) -> bool {
        let site = self.decider.site();
        let families: Vec<Family> = site.families().collect();
        let traffic = self.counters.traffic(site.uplinks.len(), &families);
        self.decider.measure(&traffic, time::monotonic_ms())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use weir_health::{Reason, State};
    use weir_publish::Overrides;
    use weir_site::Ipv6Config;

    use super::super::fixture::{daemon, event};
    use super::*;
    use crate::probe::Finding;

    #[tokio::test]
    async fn an_uplink_without_its_carrier_is_not_probed() {
        let (_found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        assert_eq!(daemon.probes().len(), 1);
        assert!(daemon.decider.lose_carrier(2));
        assert!(daemon.probes().is_empty());
    }

    #[tokio::test]
    async fn time_is_news_when_a_probe_has_waited_too_long() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        found.send(event(1, Finding::Sent)).await.unwrap();
        found.send(event(1, Finding::Reply(1000))).await.unwrap();
        daemon.publish();
        found.send(event(2, Finding::Sent)).await.unwrap();
        assert!(!daemon.let_time_pass(), "it may yet be answered");
        std::thread::sleep(Duration::from_millis(150));
        assert!(daemon.let_time_pass());
        assert_eq!(daemon.view()[0].ipv4.state, State::Down);
    }

    #[tokio::test]
    async fn answers_that_wait_count_before_time_passes() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        let event = |seq, finding, at| probe::Event { at, ..event(seq, finding) };
        let state = |daemon: &mut Daemon| {
            daemon.publish();
            daemon.view()[0].ipv4.state
        };
        assert_eq!(state(&mut daemon), State::Down, "not probed yet");
        let first = Instant::now();
        found.send(event(1, Finding::Sent, first)).await.unwrap();
        found.send(event(1, Finding::Reply(1000), first)).await.unwrap();
        assert_eq!(state(&mut daemon), State::Up);
        let second = Instant::now();
        found.send(event(2, Finding::Sent, second)).await.unwrap();
        assert_eq!(state(&mut daemon), State::Up);
        // Longer than the probe may take.
        std::thread::sleep(Duration::from_millis(150));
        found.send(event(2, Finding::Reply(1000), second)).await.unwrap();
        assert_eq!(state(&mut daemon), State::Up);
        let history: Vec<_> = daemon.decider.history().since(0).collect();
        assert_eq!(history.len(), 1, "{history:?}");
    }

    #[tokio::test]
    async fn each_path_is_probed_by_its_own_targets_and_judged_by_their_answers() {
        let (_found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        let mut site = daemon.decider.site().clone();
        let next_hop = "fe80::1".parse().ok();
        site.uplinks[0].ipv6 = Some(Ipv6Config { next_hop, ..Ipv6Config::default() });
        daemon.decider.reconfigure(site, Overrides::default(), time::monotonic_ms());
        let names = |probed: &ProbedUplink<'_>| {
            probed.health.targets.iter().map(|target| target.name.clone()).collect::<Vec<_>>()
        };
        let probed: Vec<_> = daemon.probes().iter().map(names).collect();
        assert_eq!(probed, [["far"], ["IPv6 next hop"]]);
        daemon.publish();
        daemon.on_probe(&event(1, Finding::Sent));
        daemon.on_probe(&event(1, Finding::Reply(1000)));
        daemon.publish();
        let view = daemon.view().remove(0);
        assert_eq!(view.ipv4.state, State::Up);
        let ipv6 = view.ipv6.expect("a path");
        assert_eq!((ipv6.state, ipv6.reason), (State::Down, Reason::NextHop));
    }
}
