//! One change under traffic: who sends, who asks and who watches, each in a thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::setpriority_process;
use weir_kit::moments::{Notice, WATCH, now_ns, when_changed};
use weir_kit::traffic::Traffic;
use weir_kit::weir::Weir;
use weir_shm::control::ControlRegion;
use weir_traffic::Arrivals;

use super::Trial;
use super::field::{ENOUGH, Field, NEW, OLD};
use crate::machine;

/// Traffic before a change, from the first frame that arrives.
const BEFORE: Duration = Duration::from_millis(50);

/// How a thread that measures shares the gateway's CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// It waits for its turn. Who watches for what weir's main loop does must: it would keep that from
    /// it.
    Ordinary,
    /// Nothing else that the CPU does keeps it waiting.
    RealTime,
}

impl Priority {
    fn take(self) {
        if self == Self::RealTime {
            machine::real_time();
        }
    }
}

/// Who asks for a change, and who watches for it.
#[derive(Clone, Copy)]
pub struct Threads {
    pub requester: Priority,
    pub watcher: Priority,
}

/// When it happened, nanoseconds of `CLOCK_MONOTONIC`.
struct Moments {
    asked: u64,
    answered: u64,
    /// The word changed; none: not while there was traffic.
    published: Option<u64>,
    last_sent: u64,
}

impl Field {
    /// Makes the change under traffic, which is set up. Times count from the notice, if there is
    /// one, else from the request. None if the traffic was over too soon after it: the generator makes
    /// good what it was late with, and the kernel takes its time to set a link down.
    pub fn trial(
        &mut self,
        change: impl FnOnce(&Weir) -> Result<()> + Send,
        word: impl Fn(&ControlRegion) -> u64 + Sync,
        threads: Threads,
        notice: Option<&Notice>,
    ) -> Result<Option<Trial>> {
        let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
        self.site.traffic.forget_arrivals()?;
        let before = far(&self.site.traffic)?;
        let moments = self.make(change, word, threads)?;
        let begin = match notice {
            Some(notice) => notice.moment()?.context("nobody told of the change")?,
            None => moments.asked,
        };
        let arrived = self.site.settle(far)? - before;
        if moments.last_sent < begin.max(moments.answered) + ENOUGH {
            return Ok(None);
        }
        let arrivals = self.site.traffic.arrivals()?;
        let (old, new): (Arrivals, Arrivals) = (arrivals[OLD], arrivals[NEW]);
        moments.check(&old, &new, self.frames)?;
        let us = |ns: u64| (ns as f64 - begin as f64) / 1e3;
        let seen = moments.published.context("nothing was published")?.min(new.first_ns);
        Ok(Some(Trial {
            published_us: us(if notice.is_some() { seen } else { seen.min(moments.answered) }),
            answered_us: us(moments.answered),
            first_us: us(new.first_ns),
            last_us: us(old.last_ns),
            lost: f64::from(self.frames) - arrived as f64,
        }))
    }

    /// Sends, and makes the change once frames arrive; `word` shows that it is published.
    fn make(
        &mut self,
        change: impl FnOnce(&Weir) -> Result<()> + Send,
        word: impl Fn(&ControlRegion) -> u64 + Sync,
        threads: Threads,
    ) -> Result<Moments> {
        let (weir, traffic) = (&self.weir, &mut self.site.traffic);
        let (frames, busy) = (self.frames, self.busy.is_some());
        let control = weir.control()?;
        let arriving = traffic.arriving()?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // One by one: a frame's time is not that of the batch it waits for.
            let sender = scope.spawn(|| {
                if busy {
                    // Not real-time: what the kernel does for its frames shares its CPU.
                    let _ = setpriority_process(None, -20);
                }
                traffic.send(frames, 1).map(|_| now_ns())
            });
            let watcher = scope.spawn(|| {
                threads.watcher.take();
                when_changed(|| word(&control), &done)
            });
            while arriving.by(OLD)? == 0 && !sender.is_finished() {
                std::thread::sleep(WATCH);
            }
            std::thread::sleep(BEFORE);
            let request = scope.spawn(move || {
                threads.requester.take();
                let asked = now_ns();
                let changed = change(weir);
                (asked, now_ns(), changed)
            });
            let (asked, answered, changed) =
                request.join().map_err(|_| anyhow!("the requester panicked"))?;
            let sent = sender.join().map_err(|_| anyhow!("the generator panicked"))?;
            done.store(true, Ordering::Relaxed);
            let published = watcher.join().map_err(|_| anyhow!("the watcher panicked"))?;
            changed?;
            Ok(Moments { asked, answered, published, last_sent: sent? })
        })
    }
}

impl Moments {
    /// Did frames arrive by the old uplink before the change, and by the new one after it alone?
    fn check(&self, old: &Arrivals, new: &Arrivals, frames: u32) -> Result<()> {
        let ms = |ns: u64| (ns as f64 - self.asked as f64) / 1e6;
        ensure!(
            old.packets > 0 && old.first_ns < self.asked,
            "no traffic before the change: of {frames} frames {} came by the old uplink, the first \
             {} ms after it was asked for, and {} by the other, the first after {} ms",
            old.packets,
            ms(old.first_ns),
            new.packets,
            ms(new.first_ns)
        );
        ensure!(
            new.packets > 0,
            "no packet left by the other uplink: the change was published {:?} ms after it was \
             asked for, and done after {} ms; the traffic lasted until {} ms after",
            self.published.map(ms),
            ms(self.answered),
            ms(old.last_ns)
        );
        ensure!(new.first_ns > self.asked, "traffic left by the other uplink before the change");
        Ok(())
    }
}
