//! Packets of any protocol of IP, by raw sockets (raw(7)): who asks, and who answers.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use crate::netns::Netns;

/// How often one who answers looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);
/// Most bytes of a packet.
const LONGEST: usize = 1 << 16;

/// A raw socket of a protocol with this address. Whatever comes is read with its IPv4 header, and
/// without one of IPv6.
fn socket(address: IpAddr, protocol: u8) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::bind(&socket, &SocketAddr::new(address, 0))?;
    // What it can do is the same for any socket of datagrams.
    Ok(UdpSocket::from(socket))
}

/// What follows the IP header of what a raw socket read.
fn payload(packet: &[u8], address: IpAddr) -> &[u8] {
    let header = match (address, packet.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    packet.get(header..).unwrap_or(&[])
}

/// An end that speaks a protocol with another.
#[derive(Debug)]
pub struct Peer {
    socket: UdpSocket,
    address: IpAddr,
}

impl Peer {
    /// From an address of a namespace, to another.
    ///
    /// # Errors
    /// When there is no such address, or no such socket.
    pub fn open(netns: &Netns, address: IpAddr, to: IpAddr, protocol: u8) -> Result<Self> {
        let socket =
            netns.run(|| socket(address, protocol))?.context("cannot open a raw socket")?;
        socket.connect((to, 0))?;
        Ok(Self { socket, address })
    }

    /// Sends a packet with this payload, and waits for one.
    ///
    /// # Errors
    /// When the kernel has heard that it was refused, and when none comes in time.
    pub fn ask(&self, bytes: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
        self.socket.send(bytes)?;
        self.hear(patience)
    }

    /// Waits for a packet.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub fn hear(&self, patience: Duration) -> io::Result<Vec<u8>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut packet = vec![0; LONGEST];
        let len = self.socket.recv(&mut packet)?;
        Ok(payload(&packet[..len], self.address).to_vec())
    }
}

/// One who sends everything back that comes by a protocol; it ends when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Echo {
    /// At an address of a namespace. It answers from when this returns.
    ///
    /// # Errors
    /// As of [`Peer::open`].
    pub fn start(netns: &Netns, address: IpAddr, protocol: u8) -> Result<Self> {
        let socket =
            netns.run(|| socket(address, protocol))?.context("cannot open a raw socket")?;
        socket.set_read_timeout(Some(TURN))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = netns.thread("echo", move || {
            let mut packet = vec![0; LONGEST];
            while !ends.load(Ordering::Relaxed) {
                // What is not sent is an answer that nobody gets.
                if let Ok((len, from)) = socket.recv_from(&mut packet) {
                    let _ = socket.send_to(payload(&packet[..len], address), from);
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When its thread failed.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("it panicked"))?
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
