//! The sockets of each LAN: one for each of the gateway's addresses there, bound to the address and to
//! the device. So what comes by an uplink, by another LAN, or for another address reaches none, and an
//! answer has the address that was asked.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use weir_api::time;
use weir_layout::Family;
use weir_pcp::{CLIENT_PORT, SERVER_PORT};
use weir_ports::Realm;
use weir_service::Complaint;

use super::Datagram;
use super::gate::Gate;
use crate::advertise::link_local;

/// All hosts of a link, by [`Family`].
const ALL_HOSTS: [IpAddr; Family::COUNT] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
];
/// Room for requests that wait, bytes: some thousand.
const QUEUE_BYTES: usize = 1 << 20;
/// One more than the longest message, which is too long.
const DATAGRAM: usize = weir_pcp::pcp::LONGEST + 1;

/// Where a socket is: the LAN, its interface's index, and the gateway's address.
type Place = (String, u32, IpAddr);

/// A socket, and what it is for.
#[derive(Debug)]
pub struct Bound {
    /// The LAN's interface.
    pub lan: String,
    /// Family.
    pub family: Family,
    index: u32,
    socket: UdpSocket,
}

impl Bound {
    /// Sends to a host, or not at all: a host that makes up neighbours fills the socket with answers
    /// that wait for these to be found, and nobody waits for it. Who has no answer asks again.
    pub fn answer(&self, to: SocketAddr, message: &[u8]) {
        // Not the runtime's: it takes a socket for full that it knows nothing of yet.
        if let Err(error) = SockRef::from(&self.socket).send_to(message, &to.into()) {
            tracing::debug!(lan = self.lan, %to, "a request for a port is not answered: {error}");
        }
    }

    /// Sends to all hosts of the LAN.
    pub fn announce(&self, message: &[u8]) {
        let to = match ALL_HOSTS[self.family.index()] {
            IpAddr::V4(all) => SocketAddr::from((all, CLIENT_PORT)),
            IpAddr::V6(all) => SocketAddrV6::new(all, CLIENT_PORT, 0, self.index).into(),
        };
        self.answer(to, message);
    }
}

/// Those of all LANs.
pub struct Sockets {
    all: BTreeMap<Place, Open>,
    hear: mpsc::Sender<Datagram>,
    gate: Arc<Mutex<Gate>>,
    /// By address, what keeps its socket from being opened.
    shut: BTreeMap<Place, Complaint>,
    /// A LAN's interface has no address of the link yet.
    nameless: bool,
}

/// A socket with its listener, which ends with it.
struct Open {
    socket: Arc<Bound>,
    listener: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Sockets {
    /// None yet. What hosts send goes to `hear`, as often as they may.
    pub fn new(hear: mpsc::Sender<Datagram>, seed: u64) -> Self {
        let gate = Arc::new(Mutex::new(Gate::new(seed)));
        Self { all: BTreeMap::new(), hear, gate, shut: BTreeMap::new(), nameless: false }
    }

    /// Opens those that are to be, and closes all others.
    pub fn follow(&mut self, realms: &[Realm]) {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).follow(realms);
        let of_links: Vec<_> = realms.iter().map(address_of_link).collect();
        self.nameless = of_links.contains(&Some(None));
        let places =
            realms.iter().zip(of_links).flat_map(|(it, of_link)| places(it, of_link.flatten()));
        let wanted: Vec<Place> = places.collect();
        self.all.retain(|place, _| wanted.contains(place));
        self.shut.retain(|place, _| wanted.contains(place));
        for place in wanted {
            if !self.all.contains_key(&place) {
                self.open(place);
            }
        }
    }

    /// Is there one that could not be opened?
    pub fn lacks_some(&self) -> bool {
        self.nameless || !self.shut.is_empty()
    }

    /// Those of a LAN, in a family.
    pub fn of(&self, lan: &str, family: Family) -> Vec<Arc<Bound>> {
        let sockets = self.all.values().map(|open| &open.socket);
        sockets.filter(|it| it.lan == lan && it.family == family).cloned().collect()
    }

    fn open(&mut self, place: Place) {
        let (lan, index, address) = &place;
        match open(lan, *index, *address) {
            Ok(socket) => {
                self.shut.remove(&place);
                let socket = Arc::new(socket);
                let (hear, gate) = (self.hear.clone(), Arc::clone(&self.gate));
                let listener = tokio::spawn(listen(Arc::clone(&socket), gate, hear));
                self.all.insert(place, Open { socket, listener: listener.abort_handle() });
            }
            Err(error) => {
                let trouble = match error.kind() {
                    // Its neighbours are still asked whose it is (RFC 4862 §5.4).
                    io::ErrorKind::AddrNotAvailable => None,
                    _ => Some(format!(
                        "lan {lan}: hosts cannot ask {address} for ports: {error}; does another \
                         program serve PCP or NAT-PMP (`ss -ulpn sport = {SERVER_PORT}`)?"
                    )),
                };
                self.shut.entry(place).or_default().say(trouble);
            }
        }
    }
}

/// The gateway's address of a LAN's link, by which hosts of IPv6 know it from advertisements. `None`:
/// it is not asked there; none within: it has none yet.
fn address_of_link(realm: &Realm) -> Option<Option<Ipv6Addr>> {
    let index = realm.link.filter(|_| realm.family == Family::V6 && !realm.servers.is_empty())?;
    Some(link_local(index).ok())
}

/// Where hosts of a LAN may ask.
fn places(realm: &Realm, of_link: Option<Ipv6Addr>) -> Vec<Place> {
    let Some(index) = realm.link else { return Vec::new() };
    let servers = realm.servers.iter().copied().chain(of_link.map(IpAddr::V6));
    servers.map(|address| (realm.lan.clone(), index, address)).collect()
}

fn open(lan: &str, index: u32, address: IpAddr) -> io::Result<Bound> {
    let (domain, family) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Family::V4),
        IpAddr::V6(_) => (Domain::IPV6, Family::V6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(lan.as_bytes()))?;
    socket.set_recv_buffer_size(QUEUE_BYTES)?;
    match address {
        IpAddr::V4(address) => {
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_loop_v4(false)?;
            socket.bind(&SocketAddr::from((address, SERVER_PORT)).into())?;
        }
        IpAddr::V6(address) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_loop_v6(false)?;
            let scope = if address.is_unicast_link_local() { index } else { 0 };
            socket.bind(&SocketAddrV6::new(address, SERVER_PORT, 0, scope).into())?;
        }
    }
    let socket = UdpSocket::from_std(socket.into())?;
    Ok(Bound { lan: lan.to_owned(), family, index, socket })
}

/// Hands on what hosts send that may ask, and not too often, until the receiver is gone.
async fn listen(socket: Arc<Bound>, gate: Arc<Mutex<Gate>>, hear: mpsc::Sender<Datagram>) {
    let mut buffer = [0; DATAGRAM];
    loop {
        let Ok((length, from)) = socket.socket.recv_from(&mut buffer).await else {
            // Of a device that is gone, say.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let now = time::monotonic_ms();
        let admitted = {
            let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
            gate.admit(&socket.lan, from.ip(), now)
        };
        if !admitted {
            continue;
        }
        let (socket, bytes) = (Arc::clone(&socket), buffer[..length].to_vec());
        if hear.send(Datagram { socket, from, bytes }).await.is_err() {
            return;
        }
    }
}
