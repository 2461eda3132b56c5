//! TCP connections and UDP sockets that send a byte in turn. The connections notice when they
//! break, and try again at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use weir_kit::moments::{now_ns, sleep_exactly};

/// Connections, and as many UDP sockets: with `PACE`, each sends a byte every 40 ms, so that the first segments of a
/// window are still unsent when a silent fault is found.
pub const CONNECTIONS: u16 = 40;
/// Time between bytes of consecutive connections.
pub const PACE: Duration = Duration::from_millis(1);
/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a broken connection tries before it tries anew: its SYN may be lost too.
const ATTEMPT: Duration = Duration::from_millis(50);

/// What became of a connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTimes {
    /// When it was reset.
    pub reset_ns: Option<u64>,
    /// When another one in its place was open.
    pub again_ns: Option<u64>,
    /// When its echoes came.
    pub echoed_ns: Vec<u64>,
}

/// Open connections to an echo server, and sockets that have sent to it.
#[derive(Debug)]
pub struct Connections {
    source: IpAddr,
    server: SocketAddr,
    streams: Vec<TcpStream>,
    sockets: Vec<UdpSocket>,
}

impl Connections {
    /// Opens them in the namespace of this thread, with source ports counting up from that of
    /// `source`: a port that was used before may have a flow still, on another uplink.
    ///
    /// # Errors
    /// When one cannot be opened, or gets no answer.
    pub fn open(source: SocketAddr, server: SocketAddr) -> Result<Self> {
        let from = |index: u16| SocketAddr::new(source.ip(), source.port() + index);
        let open = |index| {
            let stream = open(from(index), server, PATIENCE)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let streams = (0..CONNECTIONS).map(open).collect::<std::io::Result<_>>();
        let streams = streams.with_context(|| format!("cannot connect to {server}"))?;
        let socket = |index| {
            let socket = UdpSocket::bind(from(index))?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(b"w")?;
            // The answer shows that the flow is made.
            socket.recv(&mut [0; 16])?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets = (0..CONNECTIONS).map(socket).collect::<std::io::Result<_>>();
        let sockets = sockets.with_context(|| format!("no answer from {server}"))?;
        Ok(Self { source: source.ip(), server, streams, sockets })
    }

    /// Lets them talk until `done`, in the namespace of this thread.
    pub fn talk(self, done: &AtomicBool) -> Vec<ConnectionTimes> {
        sleep_exactly();
        let Self { source, server, streams, sockets } = self;
        let any = SocketAddr::new(source, 0);
        let mut all: Vec<_> =
            streams.into_iter().map(|s| (Some(s), ConnectionTimes::default())).collect();
        for turn in (0..all.len()).cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
            // Answers are not read: whether packets move is seen elsewhere.
            let _ = sockets[turn].send(b"w");
            for (index, (stream, times)) in all.iter_mut().enumerate() {
                let Some(open) = stream else { continue };
                if !alive(open, index == turn, times) {
                    times.reset_ns = Some(now_ns());
                    *stream = None;
                }
            }
            // One attempt a turn: the others go on meanwhile.
            let broken = all.iter_mut().find(|(s, times)| s.is_none() && times.again_ns.is_none());
            match broken {
                Some((_, times)) if open(any, server, ATTEMPT).is_ok() => {
                    times.again_ns = Some(now_ns());
                }
                _ => std::thread::sleep(PACE),
            }
        }
        all.into_iter().map(|(_, times)| times).collect()
    }
}

/// Takes what came, and sends a byte if it is the connection's turn; says whether it is alive.
fn alive(stream: &mut TcpStream, turn: bool, times: &mut ConnectionTimes) -> bool {
    let mut buffer = [0; 256];
    let fine = |error: std::io::Error| error.kind() == ErrorKind::WouldBlock;
    let read = match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(_) => {
            times.echoed_ns.push(now_ns());
            true
        }
        Err(error) => fine(error),
    };
    read && (!turn || stream.write(b"w").map_or_else(fine, |_| true))
}

fn open(source: SocketAddr, server: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    // connect(2) obeys the timeout for sending.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    bind(&socket, &source)?;
    connect(&socket, &server)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}
