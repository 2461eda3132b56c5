//! What probes, users' connections and counters show of the uplinks.

use weir_api::time;
use weir_health::load::{Counts, Reading};
use weir_health::{PassiveCounts, Signal};
use weir_service::Complaint;
use weir_shm::counters::Traffic;

use super::Daemon;
use crate::probe::{self, Binding, Plan};

impl Daemon {
    /// What is to be probed, and from where. An uplink without its interface or its carrier is not:
    /// nothing leaves by it.
    pub(super) fn probes(&self) -> Vec<Plan<'_>> {
        let plans = self.site.uplinks.iter().enumerate().filter_map(|(index, uplink)| {
            let link = self.kernel.link(&uplink.interface).filter(|link| link.running)?;
            let binding = Binding::of(uplink, link, &self.kernel);
            let silent = self.monitor.is_silent(index);
            Some(Plan { uplink: &uplink.name, binding, health: &uplink.health, silent })
        });
        plans.collect()
    }

    /// As [`Self::hear`], for all that has been found by now. Goes before all that lets time pass for
    /// uplinks: what was answered while this process was busy is no timeout.
    pub(super) fn hear_waiting(&mut self) -> bool {
        let mut changed = false;
        while let Ok(event) = self.findings.try_recv() {
            changed |= self.hear(&event);
        }
        changed
    }

    /// Takes what a probe has found; says whether an uplink's state changed.
    pub(super) fn hear(&mut self, event: &probe::Event) -> bool {
        let named = |uplink: &weir_site::Uplink| *uplink.name == *event.uplink;
        let Some(index) = self.site.uplinks.iter().position(named) else { return false };
        let Some(signal) = event.signal(&self.site.uplinks[index].health) else { return false };
        let link = self.kernel.link(&self.site.uplinks[index].interface);
        // Without its address or route nothing can be sent; that is no evidence.
        if link.is_some_and(|link| self.kernel.waits_for(link.index))
            && !matches!(event.finding, probe::Finding::Reply(_))
        {
            return false;
        }
        let ago = event.at.elapsed().as_millis() as u64;
        self.monitor.signal(index, signal, time::monotonic_ms().saturating_sub(ago))
    }

    /// Has probes time out; says whether that changed what is known of an uplink.
    pub(super) fn let_time_pass(&mut self) -> bool {
        let silent = self.monitor.silent();
        let heard = self.hear_waiting();
        self.monitor.tick(time::monotonic_ms()) | heard || self.monitor.silent() != silent
    }

    /// Takes what users' connections have shown since the last time.
    pub(super) fn hear_users(&mut self) {
        self.hear_waiting();
        let now = time::monotonic_ms();
        let all = self.users.read(self.site.uplinks.len(), self.site.workers, now);
        for (index, counts) in all.iter().enumerate() {
            if *counts != PassiveCounts::default() {
                self.monitor.signal(index, Signal::Passive(Box::new(*counts)), now);
            }
        }
    }

    /// Says, once for each time that an uplink's targets are silent, that this machine drops their
    /// answers.
    pub(super) fn tell_dropped(&mut self) {
        self.deaf.resize_with(self.site.uplinks.len(), Complaint::default);
        for (index, (uplink, complaint)) in self.site.uplinks.iter().zip(&mut self.deaf).enumerate()
        {
            if !self.monitor.is_silent(index) {
                complaint.say(None);
            } else if self.monitor.drops_answers(index) {
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
        let now = time::monotonic_ms();
        let traffic = self.counters.traffic(self.site.uplinks.len());
        let reading = |(index, traffic): (usize, &Traffic)| {
            let down = Counts { bytes: traffic.rx_bytes, packets: traffic.rx_packets };
            let up = Counts { bytes: traffic.tx_bytes, packets: traffic.tx_packets };
            Reading { counts: [down, up], rtt: self.monitor.rtt(index) }
        };
        let readings: Vec<_> = traffic.iter().enumerate().map(reading).collect();
        let changes = self.load.step(&readings, now);
        changes.iter().for_each(|change| self.monitor.note_load(change, now));
        !changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use weir_health::State;

    use super::super::fixture::{daemon, event};
    use super::*;
    use crate::probe::Finding;

    #[tokio::test]
    async fn an_uplink_without_its_carrier_is_not_probed() {
        let (_found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        assert_eq!(daemon.probes().len(), 1);
        assert!(daemon.kernel.lose_carrier(2));
        assert!(daemon.probes().is_empty());
    }

    #[tokio::test]
    async fn time_is_news_when_a_probe_has_waited_too_long() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        found.send(event(1, Finding::Sent)).await.unwrap();
        found.send(event(1, Finding::Reply(1000))).await.unwrap();
        daemon.publish().unwrap();
        found.send(event(2, Finding::Sent)).await.unwrap();
        assert!(!daemon.let_time_pass(), "it may yet be answered");
        std::thread::sleep(Duration::from_millis(150));
        assert!(daemon.let_time_pass());
        assert_eq!(daemon.view()[0].state, State::Down);
    }

    #[tokio::test]
    async fn answers_that_wait_count_before_time_passes() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        let event = |seq, finding, at| probe::Event { at, ..event(seq, finding) };
        let state = |daemon: &mut Daemon| {
            daemon.publish().unwrap();
            daemon.view()[0].state
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
        let history: Vec<_> = daemon.history.since(0).collect();
        assert_eq!(history.len(), 1, "{history:?}");
    }
}
