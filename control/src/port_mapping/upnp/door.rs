//! The sockets of a LAN, in a family: all are bound to its device, so what comes by an uplink or
//! another LAN reaches none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use weir_layout::Family;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use weir_api::time;
use weir_upnp::PORT;
use weir_upnp::presence::GROUPS;
use weir_upnp::ssdp::{self, Search};

use super::{Gates, Heard, web};

/// Room for searches that wait, bytes: some hundred.
const QUEUE_BYTES: usize = 1 << 18;
/// Connections that wait to be taken.
const BACKLOG: i32 = 32;
/// How many routers may be between, for those who hear notices (UDA §1).
const HOPS: u32 = 2;

/// Where a door is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The LAN's interface.
    pub lan: String,
    /// Its index.
    pub index: u32,
    /// The gateway's address there.
    pub address: SocketAddr,
}

impl Place {
    /// What keeps it from being opened, for the operator; none: it will be, by itself.
    pub fn trouble(&self, error: &io::Error) -> Option<String> {
        // Its neighbours are still asked whose it is (RFC 4862 §5.4).
        let is_new = error.kind() == io::ErrorKind::AddrNotAvailable;
        (!is_new).then(|| {
            format!(
                "lan {}: hosts cannot ask {} for ports by UPnP: {error}; does another program serve \
                 UPnP (`ss -ulpn sport = {PORT}`, `ss -tlpn sport = {PORT}`)?",
                self.lan,
                self.address.ip()
            )
        })
    }
}

/// A LAN's sockets. Listeners end with it.
#[derive(Debug)]
pub struct Door {
    /// Where it is.
    pub place: Place,
    /// What answers and notices leave by.
    socket: Arc<UdpSocket>,
    listeners: Mutex<Vec<AbortHandle>>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

impl Door {
    /// Opens it. What hosts send goes to `hear`, as often as they may.
    ///
    /// # Errors
    /// Without a socket, or where another program has the port.
    pub fn open(
        place: Place,
        gates: Arc<Gates>,
        hear: mpsc::Sender<Heard>,
    ) -> io::Result<Arc<Self>> {
        let family = Family::of(place.address.ip());
        // First what another program may have: groups that are joined and left again are told to
        // switches.
        let listener = tcp(&place)?;
        let socket = Arc::new(udp(&place, place.address)?);
        let groups = GROUPS[family.index()].iter().map(|group| join(&place, *group));
        let groups = groups.collect::<io::Result<Vec<_>>>()?;
        let listeners = Mutex::default();
        let door = Arc::new(Self { place, socket: Arc::clone(&socket), listeners });
        let mut tasks = Vec::new();
        for (socket, of_many) in
            groups.into_iter().map(|it| (Arc::new(it), true)).chain([(socket, false)])
        {
            let ears =
                Ears { door: Arc::downgrade(&door), gates: Arc::clone(&gates), hear: hear.clone() };
            tasks.push(tokio::spawn(ears.listen(socket, of_many)).abort_handle());
        }
        let accept = web::accept(listener, Arc::downgrade(&door), gates, hear);
        tasks.push(tokio::spawn(accept).abort_handle());
        *door.listeners.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(door)
    }

    /// Hears nobody any more; what is to be sent still is.
    pub fn close(&self) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.drain(..).for_each(|listener| listener.abort());
    }

    /// Sends, or not: nobody waits for a host that makes up neighbours. Datagrams are lost anyway.
    pub fn send(&self, to: SocketAddr, message: &[u8]) {
        let to = match to {
            SocketAddr::V6(to) if to.ip().is_multicast() => {
                SocketAddrV6::new(*to.ip(), to.port(), 0, self.place.index).into()
            }
            to => to,
        };
        // Not the runtime's: it takes a socket for full that it knows nothing of yet.
        if let Err(error) = SockRef::from(&*self.socket).send_to(message, &to.into()) {
            tracing::debug!(lan = self.place.lan, %to, "nothing is sent by SSDP: {error}");
        }
    }
}

/// Who hears searches.
struct Ears {
    door: std::sync::Weak<Door>,
    gates: Arc<Gates>,
    hear: mpsc::Sender<Heard>,
}

impl Ears {
    /// Hands on searches of those that may ask, and not too often.
    async fn listen(self, socket: Arc<UdpSocket>, of_many: bool) {
        let mut buffer = [0; ssdp::LONGEST + 1];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                // Of a device that is gone, say.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(door) = self.door.upgrade() else { return };
            // Notices of its own, of a media server say, are no search and take nothing from a
            // host. Who asks all says for how long they may take (UDA §1.3.3).
            let search = Search::read(&buffer[..length]);
            let Some(search) = search.filter(|it| !of_many || it.within.is_some()) else {
                continue;
            };
            if !self.gates.admit_search(&door.place.lan, from.ip(), time::monotonic_ms()) {
                continue;
            }
            if self.hear.send(Heard::Search { door, from, search }).await.is_err() {
                return;
            }
        }
    }
}

/// A socket that is bound to the device and to an address.
fn bound(place: &Place, kind: Type, protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(place.lan.as_bytes()))?;
    // Media servers on the gateway hear SSDP too; after a restart, connections of before are there.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let address = match address {
        SocketAddr::V6(it) if it.ip().is_multicast() => {
            SocketAddrV6::new(*it.ip(), it.port(), 0, place.index).into()
        }
        other => other,
    };
    socket.bind(&address.into())?;
    Ok(socket)
}

fn udp(place: &Place, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(place, Type::DGRAM, Protocol::UDP, address)?;
    socket.set_recv_buffer_size(QUEUE_BYTES)?;
    match place.address {
        SocketAddr::V4(own) => {
            socket.set_multicast_if_v4(own.ip())?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(HOPS)?;
        }
        SocketAddr::V6(_) => {
            socket.set_multicast_if_v6(place.index)?;
            socket.set_multicast_loop_v6(false)?;
        }
    }
    UdpSocket::from_std(socket.into())
}

fn join(place: &Place, group: IpAddr) -> io::Result<UdpSocket> {
    let socket = udp(place, SocketAddr::new(group, PORT))?;
    match group {
        IpAddr::V4(group) => {
            let own = match place.address.ip() {
                IpAddr::V4(own) => own,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            socket.join_multicast_v4(group, own)?;
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, place.index)?,
    }
    Ok(socket)
}

fn tcp(place: &Place) -> io::Result<TcpListener> {
    let socket = bound(place, Type::STREAM, Protocol::TCP, place.address)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
