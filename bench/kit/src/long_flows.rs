//! Flows that stay open and are asked now and then whether they still work.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::topology::Host;

/// How long an echo may take: several retransmissions, on a line that loses some.
const PATIENCE: Duration = Duration::from_secs(10);
/// Datagrams sent before a UDP flow counts as dead: a line that loses 2 % loses so many in a row once
/// in 1e13.
const TRIES: usize = 8;

/// Open TCP connections and UDP flows of one host to an echo server.
#[derive(Debug)]
pub struct LongFlows {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
    round: u32,
}

/// How many flows work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// TCP connections that echo.
    pub tcp: usize,
    /// TCP connections that were reset.
    pub reset: usize,
    /// UDP flows that echo.
    pub udp: usize,
}

impl LongFlows {
    /// Opens `count` flows of each kind.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(host: &Host, server: SocketAddrV4, count: usize) -> Result<Self> {
        host.netns.run(|| -> Result<Self> {
            let connect = |_| -> Result<TcpStream> {
                let stream = TcpStream::connect_timeout(&server.into(), PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            };
            let open = |_| -> Result<UdpSocket> {
                let socket = UdpSocket::bind((host.address, 0))?;
                socket.connect(server)?;
                socket.set_read_timeout(Some(PATIENCE / TRIES as u32))?;
                Ok(socket)
            };
            let tcp = (0..count).map(connect).collect::<Result<_>>().context("a TCP connection")?;
            let udp = (0..count).map(open).collect::<Result<_>>().context("a UDP flow")?;
            Ok(Self { tcp, udp, round: 0 })
        })?
    }

    /// Asks every flow for an echo. Those that are broken stay so.
    pub fn ask(&mut self) -> Alive {
        self.round += 1;
        let block = self.round.to_be_bytes();
        let mut alive = Alive { tcp: 0, reset: 0, udp: 0 };
        let asked: Vec<_> = self.tcp.iter_mut().map(|stream| stream.write_all(&block)).collect();
        for (stream, asked) in self.tcp.iter_mut().zip(asked) {
            let mut answer = [0; 4];
            match asked.and_then(|()| stream.read_exact(&mut answer)) {
                Ok(()) => alive.tcp += usize::from(answer == block),
                Err(error) => alive.reset += usize::from(is_reset(error.kind())),
            }
        }
        alive.udp = self.udp.iter().filter(|socket| echoes(socket, block)).count();
        alive
    }
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
}

/// A datagram may be lost, and an answer to an earlier one may come late.
fn echoes(socket: &UdpSocket, block: [u8; 4]) -> bool {
    let answers = || {
        let receive = || -> Option<[u8; 4]> {
            let mut answer = [0; 4];
            socket.recv(&mut answer).ok().map(|_| answer)
        };
        std::iter::from_fn(receive).any(|answer| answer == block)
    };
    (0..TRIES).any(|_| socket.send(&block).is_ok() && answers())
}
