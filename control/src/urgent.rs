//! State words ahead of the state machine: a lost carrier and `weir down` are in the words of the
//! uplink's paths before anything else is done about them.
//!
//! A thread of its own hears the kernel's link events and serves the API socket. It has real-time
//! priority and waits for nothing that the rest of the process does: that may be deriving bucket
//! tables, reading a million routes, or waiting for a CPU. Nor does it wait for who asks: command
//! lines are read by another thread, see [`command_lines`](crate::command_lines). What it puts into a
//! word it also *says* to the daemon, whose state machine takes it as it takes all else that it
//! hears, and confirms or corrects the word. Until then nothing that the daemon decided before
//! raises the word again.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
};
use tokio::sync::Notify;
use weir_api::{Message, Request};
use weir_kernel::events::Event;
use weir_kernel::links::LinkEvents;
use weir_layout::control::{PathId, path_state};
use weir_layout::{Family, MAX_UPLINKS};
use weir_shm::control::StateWords;
use weir_shm::state_word;
use weir_site::Site;
use weir_view::Kernel;

/// The lowest real-time priority is before everything that is not.
const PRIORITY: u8 = 1;
/// For want of that: before nearly everything.
const NICE: i32 = -20;

/// Bits that an uplink has, or may have, only while it is not down for a reason of its own.
const STANDING: u32 = path_state::USABLE
    | path_state::SPARED
    | path_state::LAST_RESORT
    | path_state::DEGRADED
    | path_state::UNHEALTHY
    | path_state::HELD_DOWN
    | path_state::DRAINING;

/// The paths' state words, which the daemon and the urgent thread write: without a lock by
/// [`state_word`], whose order a model checks. Names are under a lock that is written at a reload
/// alone, and interfaces are single words: of both, what was before or after is right.
pub struct PathWords {
    words: StateWords,
    /// By uplink: bits that are in the words of its paths and that the daemon has not heard of.
    said: [AtomicU32; MAX_UPLINKS],
    /// By uplink: the kernel index of its interface; 0: none.
    interfaces: [AtomicU32; MAX_UPLINKS],
    names: RwLock<Vec<String>>,
    news: Notify,
}

impl PathWords {
    /// Of no uplink yet.
    pub fn new(words: StateWords) -> Self {
        Self {
            words,
            said: [const { AtomicU32::new(0) }; MAX_UPLINKS],
            interfaces: [const { AtomicU32::new(0) }; MAX_UPLINKS],
            names: RwLock::default(),
            news: Notify::new(),
        }
    }

    /// Takes what the uplinks are called, and by which interfaces they are.
    pub fn know(&self, site: &Site, kernel: &Kernel) {
        for (index, interface) in self.interfaces.iter().enumerate() {
            let link = site.uplinks.get(index).and_then(|uplink| kernel.link(&uplink.interface));
            interface.store(link.map_or(0, |link| link.index), SeqCst);
        }
        let names = || site.uplinks.iter().map(|uplink| uplink.name.as_str());
        if !names().eq(self.read_names().iter()) {
            let mut known = self.names.write().unwrap_or_else(PoisonError::into_inner);
            *known = names().map(str::to_owned).collect();
        }
    }

    fn read_names(&self) -> std::sync::RwLockReadGuard<'_, Vec<String>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores what the daemon decided. Where something was said meanwhile, that holds.
    pub fn set(&self, path: PathId, state: u32) {
        state_word::decide(self.words.word(path), self.said(path.uplink), state, fallen);
    }

    /// Puts the uplink's paths down for this reason.
    fn say(&self, uplink: u8, bit: u32) {
        let words = Family::ALL.map(|family| self.words.word(PathId::new(uplink, family)));
        state_word::report(words, self.said(uplink), bit, fallen);
    }

    fn said(&self, uplink: u8) -> &AtomicU32 {
        &self.said[usize::from(uplink) % MAX_UPLINKS]
    }

    /// Returns when a carrier was lost that the daemon has not heard of.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// The interfaces that lost their carrier since this was last asked; with that the daemon has
    /// heard of them.
    pub fn lost_carriers(&self) -> impl Iterator<Item = u32> + '_ {
        let heard = self
            .said
            .iter()
            .zip(&self.interfaces)
            .filter(|(said, _)| state_word::acknowledge(said, path_state::NO_CARRIER));
        heard.map(|(_, interface)| interface.load(SeqCst))
    }

    /// Takes an event about an interface.
    pub fn on_link_event(&self, event: Event) {
        let Event::Link { index, running: false, .. } = event else { return };
        for (uplink, interface) in (0u8..).zip(&self.interfaces) {
            if interface.load(SeqCst) == index {
                self.say(uplink, path_state::NO_CARRIER);
            }
        }
        self.news.notify_one();
    }

    /// Takes a message that is on its way to the daemon.
    pub fn on_message(&self, message: &Message) {
        if let Some(uplink) = self.taken_down(message) {
            self.say(uplink, path_state::ADMIN_DOWN);
        }
    }

    /// The daemon has heard of this message, whatever comes of it.
    pub fn acknowledge(&self, message: &Message) {
        if let Some(uplink) = self.taken_down(message) {
            state_word::acknowledge(self.said(uplink), path_state::ADMIN_DOWN);
        }
    }

    fn taken_down(&self, message: &Message) -> Option<u8> {
        let Message::Do(Request::Down { uplink }) = message else { return None };
        let at = self.read_names().iter().position(|name| name == uplink)?;
        u8::try_from(at).ok().filter(|at| usize::from(*at) < MAX_UPLINKS)
    }
}

/// The word of an uplink that is down for these reasons.
fn fallen(word: u32, reasons: u32) -> u32 {
    (word & !STANDING) | reasons
}

/// Starts the thread: it hears link events, and runs `serve`, which serves the API.
///
/// # Errors
/// When the thread cannot be started, or the kernel's events cannot be heard.
pub fn start<F>(words: Arc<PathWords>, serve: impl FnOnce() -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = ()>,
{
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let work = move || {
        prioritise();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        runtime.block_on(async {
            let events = match LinkEvents::subscribe() {
                Ok(events) => events,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            tokio::join!(listen(events, &words), serve());
        });
    };
    std::thread::Builder::new().name("weir-urgent".into()).spawn(work)?;
    started.recv().context("the urgent thread ended")?.context("cannot hear link events")
}

async fn listen(mut events: LinkEvents, words: &PathWords) {
    loop {
        match events.next().await {
            // What was lost, the daemon finds in its view: it loses the same events.
            Ok(event) => words.on_link_event(event),
            Err(error) => {
                tracing::error!("no more link events, lost carriers are seen late: {error}");
                return;
            }
        }
    }
}

/// Puts this thread before all that is not real-time, and keeps the memory that there is.
fn prioritise() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let real_time = ThreadPriorityValue::try_from(PRIORITY).map(|priority| {
        let priority = ThreadPriority::Crossplatform(priority);
        set_thread_priority_and_policy(thread_native_id(), priority, policy)
    });
    if !matches!(real_time, Ok(Ok(()))) {
        let instead = rustix::process::setpriority_process(None, NICE);
        tracing::warn!(
            "no real-time priority, so a busy machine may obey a lost carrier and `weir down` \
             late: give weir-control CAP_SYS_NICE, and its cgroup real-time run time \
             (CONFIG_RT_GROUP_SCHED); {}",
            match instead {
                Ok(()) => format!("nice {NICE} instead"),
                Err(error) => format!("nice {NICE} instead is refused too: {error}"),
            }
        );
    }
    use rustix::mm::MlockAllFlags;
    if let Err(error) = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT) {
        tracing::debug!("memory is not locked: {error}");
    }
}

#[cfg(test)]
mod tests {
    use weir_shm::adjacencies::NextHops;
    use weir_shm::control::{ControlRegion, ControlWriter};
    use weir_view::Link;

    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n\
        [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n\
        [[uplink]]\nname = \"lte\"\ninterface = \"wan1\"\n";
    const UP: u32 = path_state::USABLE;
    const CUT: Event = Event::Link { index: 2, up: true, running: false };

    /// Two uplinks in use, by interfaces 2 and 3.
    fn words() -> (PathWords, ControlRegion) {
        let region = ControlRegion::anonymous().unwrap();
        let words = PathWords::new(
            ControlWriter::new(region.clone(), NextHops::anonymous().unwrap()).words(),
        );
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let links = vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")];
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        words.know(&site, &Kernel { links, ..Kernel::default() });
        (0..2).for_each(|uplink| words.set(PathId::v4(uplink), UP | path_state::SATURATED));
        (words, region)
    }

    fn down(uplink: &str) -> Message {
        Message::Do(Request::Down { uplink: uplink.into() })
    }

    #[test]
    fn a_lost_carrier_is_in_the_word_at_once_and_said_to_the_daemon_once() {
        let (words, region) = words();
        words.on_link_event(CUT);
        assert_eq!(
            region.path_state(PathId::v4(0)),
            path_state::NO_CARRIER | path_state::SATURATED
        );
        assert_eq!(region.path_state(PathId::v4(1)), UP | path_state::SATURATED, "it has its own");
        assert_eq!(words.lost_carriers().collect::<Vec<_>>(), [2]);
        assert_eq!(words.lost_carriers().count(), 0);
    }

    #[test]
    fn an_event_about_a_link_with_carrier_or_a_strange_one_changes_nothing() {
        let (words, region) = words();
        words.on_link_event(Event::Link { index: 2, up: true, running: true });
        words.on_link_event(Event::Link { index: 9, up: true, running: false });
        words.on_link_event(Event::Unknown);
        assert_eq!(region.path_state(PathId::v4(0)), UP | path_state::SATURATED);
    }

    #[test]
    fn what_was_decided_before_does_not_raise_a_word_that_fell() {
        let (words, region) = words();
        words.on_link_event(CUT);
        words.set(PathId::v4(0), UP);
        assert_eq!(region.path_state(PathId::v4(0)), path_state::NO_CARRIER);
        assert_eq!(words.lost_carriers().count(), 1);
        words.set(PathId::v4(0), UP | path_state::DEGRADED);
        assert_eq!(region.path_state(PathId::v4(0)), UP | path_state::DEGRADED, "decided since");
    }

    #[test]
    fn an_uplink_set_down_by_hand_is_down_before_the_daemon_hears_of_it() {
        let (words, region) = words();
        words.on_message(&down("lte"));
        words.set(PathId::v4(1), UP);
        assert_eq!(region.path_state(PathId::v4(1)), path_state::ADMIN_DOWN);
        assert_eq!(words.lost_carriers().count(), 0);
        words.acknowledge(&down("lte"));
        words.set(PathId::v4(1), UP);
        assert_eq!(region.path_state(PathId::v4(1)), UP, "put back, or the request was refused");
    }

    #[test]
    fn other_messages_leave_the_words_alone() {
        let (words, region) = words();
        words.on_message(&down("nosuch"));
        words.on_message(&Message::Do(Request::Up { uplink: "fiber".into() }));
        assert_eq!(
            [0, 1].map(|uplink| region.path_state(PathId::v4(uplink))),
            [UP | path_state::SATURATED; 2]
        );
    }
}
