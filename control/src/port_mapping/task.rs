//! The thread's loop: one event at a time, and what follows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use weir_api::time;
use weir_kernel::bound;
use weir_pcp::Server;
use weir_ports::{Asker, IsBound, Mapping, Situation, Store};

use super::journal::Journal;
use super::record::Record;
use super::sockets::{Bound, Sockets};
use super::upnp::{Asked, Heard, Upnp, whole};
use super::{Datagram, Removal, Wanted};
use crate::sleep;

/// Requests that wait at most.
const QUEUE: usize = 64;
/// How often what hosts have is handed on, milliseconds: each time a half is published.
const EACH_MS: u64 = 200;
/// How often what they have is written down where only ends are others, milliseconds.
const RECORD_MS: u64 = 60_000;
/// How often sockets are opened that could not be, milliseconds.
const OPEN_MS: u64 = 1000;
/// For how long it holds which ports sockets of the gateway have, milliseconds.
const BOUND_MS: u64 = 1000;
/// How long the kernel may take to say which they are.
const KERNEL_PATIENCE: Duration = Duration::from_millis(500);
/// Datagrams of a LAN that wait for what they say to be in force. Responses are no more than there are
/// connections.
const WAITING: usize = 256;

pub(super) struct Task {
    store: Store,
    pcp: Server,
    record: Record,
    journal: Journal,
    wanted: watch::Sender<Wanted>,
    shown: Arc<Mutex<Vec<Mapping>>>,
    seed: u64,
    /// Mappings are others than those that were handed on.
    changed: bool,
    /// When they were.
    handed: u64,
    /// When ends are to be written down that are others.
    unwritten: Option<u64>,
    /// When sockets are to be opened that could not be.
    reopen: Option<u64>,
    waiting: Vec<Waiting>,
    looked: Looked,
}

/// An answer that holds once this version is in force.
struct Waiting {
    version: u64,
    answer: Answer,
}

/// What is said, and to whom.
enum Answer {
    /// A datagram.
    Datagram { socket: Arc<Bound>, to: SocketAddr, message: Vec<u8> },
    /// A response of HTTP.
    Response(oneshot::Sender<Response<Full<Bytes>>>, Response<Full<Bytes>>),
}

impl Answer {
    fn send(self) {
        match self {
            Self::Datagram { socket, to, message } => socket.answer(to, &message),
            // Who does not wait any more asks again.
            Self::Response(reply, response) => drop(reply.send(response)),
        }
    }

    /// Is there nobody who waits for it any more?
    fn is_unheard(&self) -> bool {
        matches!(self, Self::Response(reply, _) if reply.is_closed())
    }

    /// Is it a datagram to a host of this LAN?
    fn is_datagram_by(&self, lan: &str) -> bool {
        matches!(self, Self::Datagram { socket, .. } if socket.lan == lan)
    }
}

impl Task {
    pub(super) fn new(
        mappings: Vec<Mapping>,
        record: Record,
        wanted: watch::Sender<Wanted>,
        shown: Arc<Mutex<Vec<Mapping>>>,
        seed: u64,
    ) -> Self {
        let mut task = Self {
            store: Store::new(mappings),
            pcp: Server::default(),
            record,
            journal: Journal::default(),
            wanted,
            shown,
            seed,
            changed: false,
            handed: 0,
            unwritten: None,
            reopen: None,
            waiting: Vec::new(),
            looked: Looked::default(),
        };
        task.journal.tell(task.store.mappings());
        task.show();
        task
    }

    /// Runs until nobody tells it of the situation any more.
    pub(super) async fn run(
        mut self,
        mut situation: watch::Receiver<Situation>,
        mut published: watch::Receiver<u64>,
        mut removals: mpsc::Receiver<Removal>,
    ) {
        let (hear, mut heard) = mpsc::channel(QUEUE);
        let mut sockets = Sockets::new(hear, self.seed);
        let (mut upnp, mut heard_by_upnp) = Upnp::new(self.seed);
        loop {
            let deadline = [self.deadline(), upnp.deadline()].into_iter().flatten().min();
            tokio::select! {
                changed = situation.changed() => {
                    if changed.is_err() {
                        upnp.farewell();
                        return;
                    }
                    let situation = situation.borrow_and_update().clone();
                    let now = time::monotonic_ms();
                    let pcp = &mut self.pcp;
                    pcp.follow(&situation, now);
                    let lost = |mapping: &Mapping| pcp.lose(mapping, now);
                    self.changed |= self.store.follow(situation, now, lost);
                    self.show();
                    upnp.follow(self.store.situation(), now);
                    self.open(&mut sockets, &mut upnp);
                }
                Some(datagram) = heard.recv() => self.hear(datagram, *published.borrow()).await,
                Some(heard) = heard_by_upnp.recv() => match heard {
                    Heard::Search { door, from, search } => {
                        upnp.search(&door, from, &search, time::monotonic_ms());
                    }
                    Heard::Request(asked) => {
                        self.hear_upnp(&upnp, *asked, *published.borrow()).await;
                    }
                },
                Some((name, done)) = removals.recv() => {
                    // Who gave up was told that it stays.
                    let removed = if done.is_closed() { None } else { self.store.remove(&name) };
                    if let Some(mapping) = &removed {
                        let now = time::monotonic_ms();
                        self.pcp.lose(mapping, now);
                        self.hand_on(now);
                    }
                    let _ = done.send(removed.is_some());
                }
                changed = published.changed() => {
                    if changed.is_err() {
                        upnp.farewell();
                        return;
                    }
                }
                () = sleep::until(deadline) => {}
            }
            self.pass(&mut sockets, &mut upnp);
            let in_force = *published.borrow_and_update();
            for answer in self.waiting.extract_if(.., |answer| answer.version <= in_force) {
                answer.answer.send();
            }
        }
    }

    fn deadline(&self) -> Option<u64> {
        let hand_on = self.changed.then_some(self.handed + EACH_MS);
        let parts = [self.store.deadline(), self.pcp.deadline()];
        let own = [hand_on, self.unwritten, self.reopen];
        parts.into_iter().chain(own).flatten().min()
    }

    fn open(&mut self, sockets: &mut Sockets, upnp: &mut Upnp) {
        sockets.follow(&self.store.situation().realms);
        upnp.open(self.store.situation());
        let lacks_some = sockets.lacks_some() || upnp.lacks_some();
        self.reopen = lacks_some.then(|| time::monotonic_ms() + OPEN_MS);
    }

    /// Lets time pass.
    fn pass(&mut self, sockets: &mut Sockets, upnp: &mut Upnp) {
        let now = time::monotonic_ms();
        upnp.pass(now);
        self.changed |= self.store.expire(now);
        if self.changed && now >= self.handed + EACH_MS {
            self.hand_on(now);
        }
        if self.unwritten.is_some_and(|due| due <= now) {
            self.write_down(now);
        }
        if self.reopen.is_some_and(|due| due <= now) {
            self.open(sockets, upnp);
        }
        for announcement in self.pcp.announce(now) {
            for socket in sockets.of(&announcement.lan, announcement.family) {
                for message in &announcement.messages {
                    socket.announce(message);
                }
            }
        }
    }

    /// Answers a request: at once, if all is in force that it may be about.
    async fn hear(&mut self, datagram: Datagram, in_force: u64) {
        let Datagram { socket, from, bytes } = datagram;
        let now = time::monotonic_ms();
        self.looked.look_again(now).await;
        let has = self.looked.ports.as_deref().map(|ports| |port| bound::has(ports, port));
        let is_bound: IsBound<'_> = has.as_ref().map(|has| has as _);
        let asker = Asker { lan: &socket.lan, from: from.ip(), now };
        let Some(answer) = self.pcp.answer(&mut self.store, &bytes, asker, is_bound) else {
            return;
        };
        let says = Answer::Datagram { socket, to: from, message: answer.message };
        self.say(says, answer.changes, now, in_force);
    }

    /// The same of a request by UPnP.
    async fn hear_upnp(&mut self, upnp: &Upnp, asked: Asked, in_force: u64) {
        let now = time::monotonic_ms();
        self.looked.look_again(now).await;
        let has = self.looked.ports.as_deref().map(|ports| |port| bound::has(ports, port));
        let is_bound: IsBound<'_> = has.as_ref().map(|has| has as _);
        let Some(answer) = upnp.answer(&asked, &mut self.store, is_bound, now) else { return };
        let changes = answer.changes;
        self.say(Answer::Response(asked.reply, whole(answer)), changes, now, in_force);
    }

    /// Answers once all is in force that it may be about.
    fn say(&mut self, answer: Answer, changes: bool, now: u64, in_force: u64) {
        self.changed |= changes;
        self.unwritten.get_or_insert(now + RECORD_MS);
        self.show();
        let version = self.wanted.borrow().version + u64::from(self.changed);
        if version <= in_force {
            answer.send();
        } else if self.has_room(&answer) {
            self.waiting.push(Waiting { version, answer });
        }
    }

    /// Is there room for one more answer that waits? No LAN takes it from another.
    fn has_room(&mut self, answer: &Answer) -> bool {
        self.waiting.retain(|it| !it.answer.is_unheard());
        let Answer::Datagram { socket, .. } = answer else { return true };
        let of_lan = self.waiting.iter().filter(|it| it.answer.is_datagram_by(&socket.lan));
        of_lan.count() < WAITING
    }

    /// Hands on what hosts have, and writes it down.
    fn hand_on(&mut self, now: u64) {
        (self.changed, self.handed) = (false, now);
        self.wanted.send_modify(|wanted| {
            wanted.version += 1;
            wanted.mappings = self.store.mappings().to_vec();
        });
        self.journal.tell(self.store.mappings());
        self.show();
        self.write_down(now);
    }

    /// Writes down what hosts have; what could not be written is tried again.
    fn write_down(&mut self, now: u64) {
        let kept = self.record.keep(self.store.mappings(), now, time::now_s());
        self.unwritten = (!kept).then_some(now + RECORD_MS);
    }

    fn show(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = self.store.mappings().to_vec();
    }
}

/// The ports that sockets of the gateway have, as the kernel said when it was last asked.
#[derive(Default)]
struct Looked {
    at: Option<u64>,
    /// None: it did not say.
    ports: Option<Box<bound::Ports>>,
}

impl Looked {
    /// Asks the kernel, unless that was just done: however many ask, and whether it answers or not.
    async fn look_again(&mut self, now: u64) {
        if self.at.is_none_or(|at| now - at >= BOUND_MS) {
            let asked = tokio::time::timeout(KERNEL_PATIENCE, bound::now()).await;
            (self.at, self.ports) = (Some(now), asked.ok().and_then(Result::ok));
        }
    }
}
