//! Router advertisements, sent: one task for all LANs, which has their sockets and their time. What
//! is said, [`weir_ra`] has.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the way to the task, and the task |
//! | `port` | a LAN: its socket, what it is told, and what is wrong with it |
//! | `socket` | the socket |
//! | `record` | what hosts were told of, on disk |
//! | `view` | what was told last, for who asks |
//!
//! Where another program sends a LAN's, all is decided as if they were sent, and when it is another
//! than before, hooks run: `weir ra` says then what it is.
//!
//! When this process ends, nothing is sent: what is published stays in force, and hosts keep their
//! router for as long as they were told.

mod port;
mod record;
mod socket;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use weir_api::{AdvertisedView, time};
use weir_health::pace::Random;
use weir_publish::Advertised;

use crate::hooks::{Event, Hooks};
use crate::sleep;
use port::Port;
use record::Record;
use socket::Message;

pub(crate) use socket::link_local;

/// Messages heard that wait at most; a host asks again.
const QUEUE: usize = 64;

/// The way to the task, which ends when this is dropped.
#[derive(Debug)]
pub struct Advertisers {
    wanted: watch::Sender<Wanted>,
    shown: Arc<Mutex<Vec<AdvertisedView>>>,
}

/// What each LAN is to be told, and where the programs are that run when another program is to.
type Wanted = (Vec<Advertised>, Option<PathBuf>);

impl Advertisers {
    /// Starts the task. `record` is the file of what hosts were told of; `hooks` run where other
    /// programs send.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn start(record: PathBuf, hooks: Hooks, seed: u64) -> Self {
        let (wanted, told) = watch::channel(Wanted::default());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let task = Task {
            ports: BTreeMap::new(),
            left: Vec::new(),
            hooks,
            directory: None,
            record: Record::read(record),
            random: Random::new(seed),
            shown: Arc::clone(&shown),
            changed: false,
        };
        tokio::spawn(task.run(told));
        Self { wanted, shown }
    }

    /// Takes what each LAN is to be told, and the directory of the hooks.
    pub fn follow(&self, lans: Vec<Advertised>, hooks: Option<PathBuf>) {
        let wanted = (lans, hooks);
        self.wanted.send_if_modified(|known| {
            let differs = *known != wanted;
            *known = wanted;
            differs
        });
    }

    /// What each LAN was told last.
    pub fn view(&self) -> Vec<AdvertisedView> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Task {
    /// By interface.
    ports: BTreeMap<String, Port>,
    /// LANs that another program sent for, and that are told nothing any more.
    left: Vec<String>,
    hooks: Hooks,
    directory: Option<PathBuf>,
    record: Record,
    random: Random,
    shown: Arc<Mutex<Vec<AdvertisedView>>>,
    /// What is shown and kept may be another. What a host asks changes nothing of it, however often.
    changed: bool,
}

impl Task {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        let (hear, mut heard) = mpsc::channel(QUEUE);
        loop {
            let deadline = self.ports.values().filter_map(Port::deadline).min();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let (lans, directory) = wanted.borrow_and_update().clone();
                    if self.directory != directory {
                        self.directory = directory;
                        // These hooks know nothing yet.
                        self.ports.values_mut().for_each(Port::give_again);
                    }
                    self.follow(lans).await;
                }
                Some(message) = heard.recv() => self.hear(&message),
                () = sleep::until(deadline) => {}
            }
            self.send(&hear).await;
        }
    }

    async fn follow(&mut self, wanted: Vec<Advertised>) {
        self.changed = true;
        let now = time::monotonic_ms();
        let is_wanted = |name: &String| wanted.iter().any(|lan| lan.interface == *name);
        for (name, port) in self.ports.extract_if(.., |name, _| !is_wanted(name)) {
            if port.is_by_others() {
                self.left.push(name);
            }
            port.leave().await;
        }
        for lan in wanted {
            let known = self.record.of(&lan.interface);
            match self.ports.get_mut(&lan.interface) {
                Some(port) => port.follow(lan, now),
                None => _ = self.ports.insert(lan.interface.clone(), Port::new(lan, known, now)),
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        let now = time::monotonic_ms();
        if let Some(port) = self.ports.get_mut(&*message.interface) {
            self.changed |= port.hear(message, now, self.random.draw());
        }
    }

    /// Sends what is due.
    async fn send(&mut self, hear: &mpsc::Sender<Message>) {
        let now = time::monotonic_ms();
        for port in self.ports.values_mut() {
            self.changed |= port.pass(now);
            if port.is_due(now) {
                port.send(hear, now, self.random.draw()).await;
                self.changed = true;
            }
        }
        if std::mem::take(&mut self.changed) {
            self.tell();
        }
    }

    /// Keeps and shows what hosts have, and has hooks told of it.
    fn tell(&mut self) {
        self.record.keep(self.ports.iter().map(|(name, port)| (name.clone(), port.known())));
        let view = self.ports.values().map(Port::view).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = view;
        self.run_hooks();
    }

    /// Has hooks told of each LAN for which another program is to send something else. They ask what
    /// that is.
    fn run_hooks(&mut self) {
        let news =
            self.ports.iter_mut().filter_map(|(name, port)| port.take_news().then(|| name.clone()));
        let news: Vec<_> = news.chain(self.left.drain(..)).collect();
        let Some(directory) = &self.directory else { return };
        for interface in news {
            self.hooks.tell(directory, Event::Advertisements { interface });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use weir_ra::heard::Heard;

    use super::*;

    #[tokio::test]
    async fn what_a_host_asks_changes_nothing_that_is_shown_or_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut task = Task {
            ports: BTreeMap::new(),
            left: Vec::new(),
            hooks: Hooks::start(crate::hooks::PATIENCE),
            directory: None,
            record: Record::read(directory.path().join("advertised.json")),
            random: Random::new(1),
            shown: Arc::default(),
            changed: false,
        };
        let (interface, running, by_others) = ("lan0".into(), true, true);
        let lan = Advertised { interface, running, by_others, ..Advertised::default() };
        task.follow(vec![lan]).await;
        let (hear, _heard) = mpsc::channel(1);
        task.send(&hear).await;
        // Whoever has taken it finds none again before something is another.
        let take = |task: &Task| std::mem::take(&mut *task.shown.lock().unwrap()).len();
        assert_eq!(take(&task), 1);
        let from = Ipv6Addr::from(0xfe80 << 112 | 9);
        let message = Message { interface: "lan0".into(), from, heard: Heard::Solicitation };
        for _ in 0..100 {
            task.hear(&message);
            task.send(&hear).await;
        }
        assert_eq!(take(&task), 0, "three seconds are not over");
        task.follow(Vec::new()).await;
        task.send(&hear).await;
        assert_eq!(task.ports.len(), 0);
    }
}
