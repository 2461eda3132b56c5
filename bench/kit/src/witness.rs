//! A server that tells each client where its packets come from, and long-lived clients of it that
//! notice everything that happens to them: an answer that is missing, another origin, a reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::moments::now_ns;
use crate::netns::Netns;
use crate::topology::Host;

/// UDP and TCP port of the server.
pub const PORT: u16 = 1007;
/// Bytes of its socket's receive buffer.
const BUFFER: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_millis(100);
/// Time between looks at connections.
const LOOK: Duration = Duration::from_millis(1);
/// Looks between two datagrams of a flow.
const DATAGRAM: u64 = 20;
/// How long the first answer may take.
const FIRST: Duration = Duration::from_secs(5);

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct Witness {
    stop: Arc<AtomicBool>,
    resets: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Witness {
    /// Starts it on one address.
    ///
    /// # Errors
    /// When its port cannot be bound.
    pub fn start(netns: &Netns, address: Ipv4Addr) -> Result<Self> {
        let bind = || Ok((UdpSocket::bind((address, PORT))?, TcpListener::bind((address, PORT))?));
        let bound: std::io::Result<_> = netns.run(bind)?;
        let (udp, tcp) = bound.with_context(|| format!("cannot bind {address}:{PORT}"))?;
        // A gateway that was held up for a while hands on all at once, and none of it is lost here.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&udp, BUFFER)?;
        udp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nonblocking(true)?;
        let witness = Self { stop: Arc::default(), resets: Arc::default() };
        let stop = Arc::clone(&witness.stop);
        std::thread::spawn(move || tell_senders(&udp, &stop));
        let (stop, resets) = (Arc::clone(&witness.stop), Arc::clone(&witness.resets));
        std::thread::spawn(move || tell_peers(&tcp, &stop, &resets));
        Ok(witness)
    }

    /// Peers of connections that were reset.
    #[must_use]
    pub fn resets(&self) -> Vec<SocketAddr> {
        self.resets.lock().map(|resets| resets.clone()).unwrap_or_default()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers a datagram with its number, eight bytes, and its origin.
fn tell_senders(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((8, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&[&buffer[..8], from.to_string().as_bytes()].concat(), from);
        }
    }
}

/// Answers every byte with the origin in a line.
fn tell_peers(listener: &TcpListener, stop: &AtomicBool, resets: &Mutex<Vec<SocketAddr>>) {
    let mut peers: Vec<(TcpStream, SocketAddr)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        while let Ok((stream, peer)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                peers.push((stream, peer));
            }
        }
        peers.retain_mut(|(stream, peer)| match stream.read(&mut [0]) {
            Ok(0) => false,
            Ok(_) => stream.write_all(format!("{peer}\n").as_bytes()).is_ok(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => {
                if error.kind() == ErrorKind::ConnectionReset {
                    resets.lock().expect("nobody panics with it").push(*peer);
                }
                false
            }
        });
        std::thread::sleep(LOOK);
    }
}

/// What happened to a UDP flow: it sends a datagram every 20 ms or so.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    /// Its source port.
    pub port: u16,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams answered.
    pub answered: u64,
    /// Datagrams without an answer although a later one has its own.
    pub lost: u64,
    /// Where the server saw it come from, one after another.
    pub origins: Vec<SocketAddrV4>,
}

/// What happened to a TCP connection, over which nothing passes after the first answer.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Its source port.
    pub port: u16,
    /// Where the server saw it come from.
    pub origin: SocketAddrV4,
    /// When it was reset, nanoseconds of `CLOCK_MONOTONIC`.
    pub reset_ns: Option<u64>,
}

/// Clients on a host.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    talks: Arc<Mutex<Vec<Talk>>>,
    idle: Arc<Mutex<Vec<Idle>>>,
    thread: Option<JoinHandle<Result<usize>>>,
}

impl Clients {
    /// Opens flows and connections from `source`; each had an answer when this returns.
    ///
    /// # Errors
    /// When one has no answer.
    pub fn open(
        host: &Host,
        source: Ipv4Addr,
        server: Ipv4Addr,
        flows: usize,
        connections: usize,
    ) -> Result<Self> {
        let server = SocketAddrV4::new(server, PORT);
        let (sockets, streams) = host.netns.run(|| -> Result<_> {
            let sockets =
                (0..flows).map(|_| open_udp(source, server)).collect::<Result<Vec<_>>>()?;
            let streams = (0..connections).map(|_| open_tcp(source, server));
            Ok((sockets, streams.collect::<Result<Vec<_>>>()?))
        })??;
        let (sockets, talks): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let (streams, idle): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
        let mut clients = Self {
            stop: Arc::default(),
            talks: Arc::new(Mutex::new(talks)),
            idle: Arc::new(Mutex::new(idle)),
            thread: None,
        };
        let (stop, talks, idle) =
            (Arc::clone(&clients.stop), Arc::clone(&clients.talks), Arc::clone(&clients.idle));
        let work = move || {
            let mut streams: Vec<_> = streams.into_iter().map(Some).collect();
            for look in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                talk(&sockets, &mut talks.lock().expect("nobody panics with it"), look);
                watch(&mut streams, &mut idle.lock().expect("nobody panics with it"));
                std::thread::sleep(LOOK);
            }
            streams.into_iter().flatten().filter(|stream| ask(stream).is_ok()).count()
        };
        clients.thread = Some(host.netns.thread("witness", work)?);
        Ok(clients)
    }

    /// The UDP flows so far.
    #[must_use]
    pub fn talks(&self) -> Vec<Talk> {
        self.talks.lock().expect("nobody panics with it").clone()
    }

    /// The TCP connections so far.
    #[must_use]
    pub fn idle(&self) -> Vec<Idle> {
        self.idle.lock().expect("nobody panics with it").clone()
    }

    /// Ends them; how many of the connections still work.
    ///
    /// # Errors
    /// When their thread could not enter its namespace, or panicked.
    pub fn stop(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the clients have no thread")?;
        thread.join().map_err(|_| anyhow!("the clients' thread panicked"))?
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn talk(sockets: &[UdpSocket], talks: &mut [Talk], look: u64) {
    for (index, (socket, talk)) in (0u64..).zip(sockets.iter().zip(talks)) {
        let mut buffer = [0; 64];
        while let Ok(length) = socket.recv(&mut buffer) {
            let Some((number, origin)) = read(&buffer[..length]) else { continue };
            talk.answered += 1;
            talk.lost = (number + 1).saturating_sub(talk.answered);
            if talk.origins.last() != Some(&origin) {
                talk.origins.push(origin);
            }
        }
        if (look + index).is_multiple_of(DATAGRAM) && socket.send(&talk.sent.to_ne_bytes()).is_ok()
        {
            talk.sent += 1;
        }
    }
}

fn watch(streams: &mut [Option<TcpStream>], idle: &mut [Idle]) {
    for (stream, idle) in streams.iter_mut().zip(idle) {
        let Some(open) = stream else { continue };
        match open.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => {
                idle.reset_ns = Some(now_ns());
                *stream = None;
            }
        }
    }
}

fn open_udp(source: Ipv4Addr, server: SocketAddrV4) -> Result<(UdpSocket, Talk)> {
    let socket = UdpSocket::bind((source, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(FIRST))?;
    socket.send(&0u64.to_ne_bytes())?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer from {server}"))?;
    let (_, origin) = read(&buffer[..length]).context("an answer that is none")?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    Ok((socket, Talk { port, sent: 1, answered: 1, lost: 0, origins: vec![origin] }))
}

/// The number of the datagram that is answered, and its origin.
fn read(answer: &[u8]) -> Option<(u64, SocketAddrV4)> {
    let (number, origin) = answer.split_first_chunk()?;
    Some((u64::from_ne_bytes(*number), std::str::from_utf8(origin).ok()?.parse().ok()?))
}

fn open_tcp(source: Ipv4Addr, server: SocketAddrV4) -> Result<(TcpStream, Idle)> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &server).with_context(|| format!("cannot connect to {server}"))?;
    let stream = TcpStream::from(socket);
    let origin = ask(&stream)?;
    stream.set_nonblocking(true)?;
    let port = stream.local_addr()?.port();
    Ok((stream, Idle { port, origin, reset_ns: None }))
}

/// Asks the server for the connection's origin.
fn ask(mut stream: &TcpStream) -> Result<SocketAddrV4> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(FIRST))?;
    stream.write_all(b"?")?;
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') {
        stream.read_exact(&mut byte)?;
        line.push(char::from(byte[0]));
    }
    Ok(line.trim().parse()?)
}
