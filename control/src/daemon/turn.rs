//! The main loop: one event at a time, and what follows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use weir_api::{Message, Request, time};
use weir_kernel::watch::Watcher;

use super::Daemon;
use crate::probe::Probers;
use crate::serve::Call;
use crate::sleep;

/// How often state is looked at without an event.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// How often load is measured.
const MEASURE: Duration = Duration::from_millis(100);

/// The signals that the process obeys, caught before anything else: none of them ends it half-way.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }
}

/// What may have changed with an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    /// Nothing more is to be done about it.
    Nothing,
    /// The uplinks' health.
    Health,
    /// The kernel or the file too.
    All,
}

/// The loop, with all that it hears of.
pub(super) struct Turns {
    daemon: Daemon,
    watcher: Watcher,
    probers: Probers,
    signals: Signals,
    called: mpsc::Receiver<Call>,
    tick: Interval,
    measure: Interval,
}

impl Turns {
    pub(super) fn new(
        daemon: Daemon,
        watcher: Watcher,
        probers: Probers,
        signals: Signals,
        called: mpsc::Receiver<Call>,
    ) -> Self {
        let mut measure = interval(MEASURE);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { daemon, watcher, probers, signals, called, tick: interval(TICK), measure }
    }

    /// Runs until a signal says stop.
    pub(super) async fn until_stopped(&mut self) {
        while let Some(changed) = self.event().await {
            match changed {
                Changed::Nothing => {}
                Changed::Health => _ = self.daemon.enforce(&self.watcher).await,
                Changed::All => self.look().await,
            }
        }
    }

    /// Waits for the next event and takes it; none: it says stop.
    async fn event(&mut self) -> Option<Changed> {
        let Self { daemon, watcher, signals, called, tick, measure, .. } = self;
        let words = Arc::clone(&daemon.executor.words);
        let only_if = |changed| if changed { Changed::Health } else { Changed::Nothing };
        let changed = tokio::select! {
            _ = signals.terminate.recv() => return None,
            _ = signals.interrupt.recv() => return None,
            _ = signals.hangup.recv() => {
                daemon.hang_up(watcher).await;
                Changed::All
            }
            Some(call) = called.recv() => self.called(call).await,
            () = words.news() => {
                daemon.publish();
                daemon.gather(watcher).await;
                Changed::All
            }
            () = watcher.changed() => {
                daemon.gather(watcher).await;
                Changed::All
            }
            _ = tick.tick() => {
                weir_service::alive();
                daemon.dataplane.tell_silence(time::monotonic_ms());
                daemon.availability.look(
                    &daemon.decider,
                    time::monotonic_ms(),
                    time::now_ms() / 1000,
                );
                daemon.tell_metrics();
                Changed::All
            }
            _ = measure.tick() => only_if(daemon.measure()),
            Some(event) = daemon.findings.recv() => {
                only_if(daemon.on_probe(&event) | daemon.drain_probes())
            }
            () = daemon.port_mapper.changed() => Changed::Health,
            () = sleep::until(daemon.decider.deadline()) => only_if(daemon.let_time_pass()),
        };
        Some(changed)
    }

    /// Answers a call, unless nobody waits for that any more.
    async fn called(&mut self, call: Call) -> Changed {
        let daemon = &mut self.daemon;
        if call.is_abandoned() {
            tracing::warn!(by = %call.caller, "gone before it was answered: not done");
            daemon.executor.words.acknowledge(&call.message);
            daemon.publish();
            return Changed::Nothing;
        }
        let response = daemon.answer(&call.message, &call.caller, &mut self.watcher).await;
        let _ = call.reply.send(response);
        match call.message {
            Message::Do(Request::Reload) => Changed::All,
            _ => Changed::Nothing,
        }
    }

    /// Looks at all there is, and has everything follow.
    async fn look(&mut self) {
        let Self { daemon, watcher, probers, .. } = self;
        watcher.follow_ipv6(daemon.decider.site().has_ipv6());
        daemon.see(watcher).await;
        daemon.catch_up();
        daemon.decider.imply(time::monotonic_ms());
        daemon.gather_users();
        daemon.tell_dropped();
        daemon.confined.sweep();
        daemon.enforce(watcher).await;
        daemon.hold_sysctls();
        daemon.resolve(watcher).await;
        probers.set(&daemon.probes());
    }

    /// Leaves only what stays in force: what is published, and the rules and routes of commands.
    pub(super) async fn end(&mut self) {
        let daemon = &mut self.daemon;
        daemon.confined.sweep();
        if daemon.keeper.keeps()
            && let Err(error) = self.watcher.remove_own(&daemon.confined.uplinks()).await
        {
            tracing::warn!("weir's rules and routes are still there: {error:#}");
        }
    }
}
