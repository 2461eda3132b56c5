//! UPnP: how hosts find the gateway, and what they ask it. What is answered, [`weir_upnp`] has.
//!
//! | module | what it is |
//! |---|---|
//! | this one | what the thread does for it |
//! | `door` | the sockets of a LAN |
//! | `web` | connections of HTTP, and their bounds |
//! | `identity` | the names of the gateway's devices |

mod door;
mod identity;
mod web;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use weir_api::time;
use weir_ports::{Asker, IsBound, Realm, Situation, Store};
use weir_service::Complaint;
use weir_upnp::presence::{self, Notices};
use weir_upnp::ssdp::Search;
use weir_upnp::{Answer, Presence, Server};

use super::gate::Gate;
use door::{Door, Place};
pub use web::whole;

/// Searches and requests that wait at most.
const QUEUE: usize = 64;
/// Answers to searches of a LAN that wait for their time.
const WAITING: usize = 256;
/// Answers to a search of many hosts are spread over so many milliseconds, whatever it says beyond: of
/// gateways a LAN has few.
const SPREAD_MS: u64 = 1000;

/// What a host sent.
#[derive(Debug)]
pub enum Heard {
    /// It looks for the gateway.
    Search {
        /// By this LAN.
        door: Arc<Door>,
        /// From here.
        from: SocketAddr,
        /// For this.
        search: Search,
    },
    /// It asks for something.
    Request(Box<Asked>),
}

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    door: Arc<Door>,
    from: SocketAddr,
    request: Request<Bytes>,
    /// Where its answer goes.
    pub reply: oneshot::Sender<Response<Full<Bytes>>>,
}

/// For all LANs.
pub struct Upnp {
    presence: Presence,
    doors: BTreeMap<Place, Arc<Door>>,
    /// By place, what keeps it from being opened.
    shut: BTreeMap<Place, Complaint>,
    gates: Arc<Gates>,
    hear: mpsc::Sender<Heard>,
    waiting: Vec<Waiting>,
    seed: u64,
    /// Of answers that were sent.
    count: u64,
}

/// Who is heard. Searches can be sent in the name of neighbours, and are counted by themselves: they take
/// nothing from requests, whose hosts have answered before.
#[derive(Debug)]
pub struct Gates {
    searches: Mutex<Gate>,
    requests: Mutex<Gate>,
}

impl Gates {
    fn new(seed: u64) -> Self {
        let gate = || Mutex::new(Gate::new(seed));
        Self { searches: gate(), requests: gate() }
    }

    fn follow(&self, realms: &[Realm]) {
        for gate in [&self.searches, &self.requests] {
            gate.lock().unwrap_or_else(PoisonError::into_inner).follow(realms);
        }
    }

    /// Is a host heard that looks for the gateway by a LAN now, in milliseconds?
    fn admit_search(&self, lan: &str, host: IpAddr, now: u64) -> bool {
        let mut gate = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        gate.admit_search(lan, host, now)
    }

    /// Is one heard that asks for something?
    fn admit(&self, lan: &str, host: IpAddr, now: u64) -> bool {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).admit(lan, host, now)
    }
}

/// An answer to a search that is sent then.
struct Waiting {
    due: u64,
    door: Arc<Door>,
    to: SocketAddr,
    message: String,
}

impl Upnp {
    /// In no LAN yet; what hosts send comes by the receiver.
    pub fn new(seed: u64) -> (Self, mpsc::Receiver<Heard>) {
        let (hear, heard) = mpsc::channel(QUEUE);
        let upnp = Self {
            presence: Presence::default(),
            doors: BTreeMap::new(),
            shut: BTreeMap::new(),
            gates: Arc::new(Gates::new(seed)),
            hear,
            waiting: Vec::new(),
            seed,
            count: 0,
        };
        (upnp, heard)
    }

    /// Tells hosts of the LANs of a situation what is other than before, by what is open yet:
    /// [`Self::open`] is to follow.
    pub fn follow(&mut self, situation: &Situation, now: u64) {
        let day = (time::now_s() & (u64::from(u32::MAX) >> 1)) as u32;
        let secret = |lan: &str, device: &str| identity::secret(self.seed, lan, device);
        let notices = self.presence.follow(situation, (now, day), secret);
        self.tell(&notices);
    }

    /// Opens what is to be open and could be opened, and closes all else.
    pub fn open(&mut self, situation: &Situation) {
        let realms = if situation.upnp { &situation.realms[..] } else { &[] };
        self.gates.follow(realms);
        let place = |realm: &Realm| {
            Some(Place {
                lan: realm.lan.clone(),
                index: realm.link?,
                address: presence::place(realm)?,
            })
        };
        let wanted: Vec<Place> = realms.iter().filter_map(place).collect();
        let is_over = |place: &Place, _: &mut Arc<Door>| !wanted.contains(place);
        self.doors.extract_if(.., is_over).for_each(|(_, door)| door.close());
        self.shut.retain(|place, _| wanted.contains(place));
        for place in wanted {
            if self.doors.contains_key(&place) {
                continue;
            }
            match Door::open(place.clone(), Arc::clone(&self.gates), self.hear.clone()) {
                Ok(door) => {
                    if self.shut.remove(&place).is_some() {
                        tracing::info!(
                            "hosts of LAN {} can ask for ports by UPnP, at {}",
                            place.lan,
                            place.address
                        );
                        self.presence.tell_again(&place.lan, time::monotonic_ms());
                    }
                    self.doors.insert(place, door);
                }
                Err(error) => {
                    let trouble = place.trouble(&error);
                    self.shut.entry(place).or_default().say(trouble);
                }
            }
        }
    }

    /// Is there a place that could not be opened?
    pub fn lacks_some(&self) -> bool {
        !self.shut.is_empty()
    }

    /// When [`Self::pass`] has something to do next.
    pub fn deadline(&self) -> Option<u64> {
        self.waiting.iter().map(|answer| answer.due).chain(self.presence.deadline()).min()
    }

    /// Lets time pass.
    pub fn pass(&mut self, now: u64) {
        let notices = self.presence.tell(now);
        self.tell(&notices);
        for answer in self.waiting.extract_if(.., |answer| answer.due <= now) {
            answer.door.send(answer.to, answer.message.as_bytes());
        }
    }

    /// Answers who looks for the gateway, each time at another moment.
    pub fn search(&mut self, door: &Arc<Door>, from: SocketAddr, search: &Search, now: u64) {
        let Some(lan) = self.presence.lan(&door.place.lan) else { return };
        let spread = search.within.map_or(0, |within| SPREAD_MS.min(u64::from(within) * 1000));
        let of_lan = self.waiting.iter().filter(|it| it.door.place.lan == door.place.lan);
        let room = WAITING.saturating_sub(of_lan.count());
        for message in search.answers(&lan.device, door.place.address).into_iter().take(room) {
            let mut hasher = DefaultHasher::new();
            (self.seed, self.count).hash(&mut hasher);
            self.count += 1;
            let due = now + hasher.finish() % (spread + 1);
            self.waiting.push(Waiting { due, door: Arc::clone(door), to: from, message });
        }
    }

    /// The answer to a request; none: it has none.
    pub fn answer(
        &self,
        asked: &Asked,
        store: &mut Store,
        is_bound: IsBound<'_>,
        now: u64,
    ) -> Option<Answer> {
        let Place { lan, address, .. } = &asked.door.place;
        let known = self.presence.lan(lan)?;
        let server = Server {
            local: *address,
            device: &known.device,
            store,
            asker: Asker { lan, from: asked.from.ip(), now },
            is_bound,
            since: known.since,
        };
        server.answer(&asked.request)
    }

    /// Tells hosts that it ends.
    pub fn farewell(&mut self) {
        let notices = self.presence.farewell();
        self.tell(&notices);
    }

    fn tell(&self, notices: &[Notices]) {
        for of in notices {
            let is_from =
                |door: &&Arc<Door>| (&door.place.lan, door.place.address) == (&of.lan, of.from);
            let Some(door) = self.doors.values().find(is_from) else { continue };
            for message in &of.messages {
                door.send(of.to, message.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_layout::Family;
    use weir_ports::Outside;

    use super::*;

    #[test]
    fn searches_take_nothing_from_requests() {
        let host = IpAddr::from([10, 0, 0, 5]);
        let gates = Gates::new(7);
        gates.follow(&[Realm {
            lan: "lan0".into(),
            link: Some(1),
            family: Family::V4,
            servers: Vec::new(),
            networks: vec!["10.0.0.0/24".parse().unwrap()],
            outside: Outside::Nowhere,
            shares_addresses: true,
        }]);
        let heard = (0..1000).filter(|_| gates.admit_search("lan0", host, 5000)).count();
        assert!((1..1000).contains(&heard));
        assert!(gates.admit("lan0", host, 5000));
    }
}
