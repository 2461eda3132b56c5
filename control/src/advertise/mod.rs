//! Router advertisements, sent: one task for all LANs, which has their sockets and their time. What
//! is said, [`weir_ra`] has.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the way to the task, and the task |
//! | `port` | a LAN: its socket, what it is told, and what is wrong with it |
//! | `socket` | the socket |
//! | `record` | what hosts were told of, on disk |
//!
//! When this process ends, nothing is sent: what is published stays in force, and hosts keep their
//! router for as long as they were told.

mod port;
mod record;
mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use weir_api::{AdvertisedView, time};
use weir_health::pace::Random;
use weir_publish::Advertised;

use crate::sleep;
use port::Port;
use record::Record;
use socket::Message;

/// Messages heard that wait at most; a host asks again.
const QUEUE: usize = 64;

/// The way to the task, which ends when this is dropped.
#[derive(Debug)]
pub struct Advertisers {
    wanted: watch::Sender<Vec<Advertised>>,
    shown: Arc<Mutex<Vec<AdvertisedView>>>,
}

impl Advertisers {
    /// Starts the task. `record` is the file of what hosts were told of.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn start(record: PathBuf, seed: u64) -> Self {
        let (wanted, told) = watch::channel(Vec::new());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let task = Task {
            ports: BTreeMap::new(),
            record: Record::read(record),
            random: Random::new(seed),
            shown: Arc::clone(&shown),
        };
        tokio::spawn(task.run(told));
        Self { wanted, shown }
    }

    /// Takes what each LAN is to be told.
    pub fn follow(&self, wanted: Vec<Advertised>) {
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
    record: Record,
    random: Random,
    shown: Arc<Mutex<Vec<AdvertisedView>>>,
}

impl Task {
    async fn run(mut self, mut wanted: watch::Receiver<Vec<Advertised>>) {
        let (hear, mut heard) = mpsc::channel(QUEUE);
        loop {
            let deadline = self.ports.values().filter_map(Port::deadline).min();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = wanted.borrow_and_update().clone();
                    self.follow(wanted).await;
                }
                Some(message) = heard.recv() => self.hear(&message),
                () = sleep::until(deadline) => {}
            }
            self.send(&hear).await;
        }
    }

    async fn follow(&mut self, wanted: Vec<Advertised>) {
        let now = time::monotonic_ms();
        let is_wanted = |name: &String| wanted.iter().any(|lan| lan.interface == *name);
        for (_, port) in self.ports.extract_if(.., |name, _| !is_wanted(name)) {
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
            port.hear(message, now, self.random.draw());
        }
    }

    /// Sends what is due.
    async fn send(&mut self, hear: &mpsc::Sender<Message>) {
        let now = time::monotonic_ms();
        for port in self.ports.values_mut() {
            port.pass(now);
            if port.is_due(now) {
                port.send(hear, now, self.random.draw()).await;
            }
        }
        self.record.keep(self.ports.iter().map(|(name, port)| (name.clone(), port.known())));
        let view = self.ports.values().map(Port::view).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}
