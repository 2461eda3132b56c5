//! The view of the kernel, and what is asked of it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use weir_api::time;
use weir_kernel::watch::Watcher;
use weir_publish::own_peers;

use super::Daemon;
use super::patience::{KERNEL_PATIENCE, unanswered};
use super::turn::TICK;
use crate::sleep;

/// How long a burst of kernel events is gathered.
const DEBOUNCE: Duration = Duration::from_millis(5);

impl Daemon {
    /// Says which rules and routes of the kernel's are not followed, which protocols that are published
    /// the gateway speaks itself, and whether it does with too many remotes, if that is new.
    pub(super) fn tell_unfollowed(&mut self) {
        let (site, kernel) = (self.decider.site(), self.decider.kernel());
        self.crowded.say(own_peers::crowded(site, kernel));
        let mut unfollowed = weir_site::unfollowed(site, kernel);
        unfollowed.extend(weir_site::spoken(site, kernel));
        for text in unfollowed.iter().filter(|text| !self.unfollowed.contains(text)) {
            tracing::warn!("{text}");
        }
        self.unfollowed = unfollowed;
    }

    /// Waits for the rest of a burst of events. A lost carrier is acted on at once.
    pub(super) async fn gather(&mut self, watcher: &mut Watcher) {
        let end = tokio::time::Instant::now() + DEBOUNCE;
        let words = Arc::clone(&self.executor.words);
        loop {
            tokio::select! {
                () = words.news() => {
                    self.publish();
                }
                () = watcher.changed() => {}
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    /// Looks at the kernel again. What is known of it stays if it does not answer.
    pub(super) async fn see(&mut self, watcher: &mut Watcher) {
        match self.meanwhile(watcher.read()).await.flatten() {
            Ok(kernel) => {
                self.decider.see(kernel, time::monotonic_ms());
                self.tell_unfollowed();
            }
            Err(error) => tracing::warn!("{error:#}; going on with what is known"),
        }
    }

    /// Waits for the kernel, but not for ever, and goes on judging the uplinks meanwhile.
    ///
    /// # Errors
    /// When it takes longer than [`KERNEL_PATIENCE`].
    pub(super) async fn meanwhile<T>(&mut self, kernel: impl Future<Output = T>) -> Result<T> {
        self.decider.expect_view();
        let begin = tokio::time::Instant::now();
        let end = begin + KERNEL_PATIENCE;
        let mut beat = tokio::time::interval_at(begin + TICK, TICK);
        let mut kernel = std::pin::pin!(kernel);
        let words = Arc::clone(&self.executor.words);
        loop {
            tokio::select! {
                done = &mut kernel => return Ok(done),
                Some(event) = self.findings.recv() => {
                    if !self.on_probe(&event) {
                        continue;
                    }
                }
                () = words.news() => {}
                // It is the kernel that hangs, not this process.
                _ = beat.tick() => weir_service::alive(),
                () = sleep::until(self.decider.deadline()) => {}
                () = tokio::time::sleep_until(end) => {
                    return Err(unanswered(KERNEL_PATIENCE));
                }
            }
            self.publish();
        }
    }

    /// As [`Self::meanwhile`], for what is asked again if it is not done.
    async fn ask(&mut self, kernel: impl Future<Output = ()>) {
        if let Err(error) = self.meanwhile(kernel).await {
            tracing::debug!("a neighbour was not asked for: {error:#}");
        }
    }

    /// Has the kernel ask for the next hops that it does not know, for those that are in doubt, and
    /// for hosts that it has not heard of for a while.
    pub(super) async fn resolve(&mut self, watcher: &Watcher) {
        let now = time::monotonic_ms();
        let unresolved = self.decider.unresolved().to_vec();
        for (interface, address) in unresolved.into_iter().chain(self.decider.unconfirmed(now)) {
            self.ask(watcher.resolve(interface, address)).await;
        }
        for (interface, address, mac) in self.decider.doubts(now) {
            self.ask(watcher.doubt(interface, address, mac)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use weir_kernel::events::Event;
    use weir_layout::control::{PathId, path_state};

    use super::super::fixture::{daemon, event, kernel};
    use super::*;
    use crate::probe::Finding;

    #[tokio::test]
    async fn uplinks_are_judged_while_the_kernel_does_not_answer() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        daemon.publish();
        let usable = daemon.executor.writer.region().clone();
        let usable = || usable.path_state(PathId::v4(0)) & path_state::USABLE != 0;
        let stuck = async {
            found.send(event(1, Finding::Sent)).await.unwrap();
            found.send(event(1, Finding::Reply(1000))).await.unwrap();
            while !usable() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let error = daemon.meanwhile(stuck).await.unwrap_err();
        assert!(error.to_string().contains("has not answered for 3 s"), "{error}");
        assert!(usable());
    }

    #[tokio::test]
    async fn a_view_that_was_read_before_a_cut_brings_no_carrier_back() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        found.send(event(1, Finding::Sent)).await.unwrap();
        found.send(event(1, Finding::Reply(1000))).await.unwrap();
        let before = daemon.publish();
        let (region, words) =
            (daemon.executor.writer.region().clone(), Arc::clone(&daemon.executor.words));
        assert_ne!(region.path_state(PathId::v4(0)) & path_state::USABLE, 0);
        let slow = async {
            let read = kernel();
            words.on_link_event(Event::Link { index: 2, up: true, running: false });
            while region.epoch() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            read
        };
        let read = daemon.meanwhile(slow).await.unwrap();
        daemon.decider.see(read, time::monotonic_ms());
        daemon.publish();
        let word = region.path_state(PathId::v4(0));
        assert_eq!(word & path_state::USABLE, 0);
        assert_ne!(word & path_state::NO_CARRIER, 0);

        let next = daemon.meanwhile(async { kernel() }).await.unwrap();
        daemon.decider.see(next, time::monotonic_ms());
        daemon.publish();
        assert_eq!(
            region.path_state(PathId::v4(0)) & path_state::NO_CARRIER,
            0,
            "it is there again"
        );
    }
}
