//! LAN hosts that make every link look ill which is judged carelessly: they try peers that are not
//! there, scan, and put segments into a connection that are far outside its window.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, ipproto};
use weir_wire::checksum;

use crate::plan::server_address;
use crate::random::Random;
use crate::topology::{Host, Topology};

/// Servers of the plan that are not there.
const ABSENT: std::ops::Range<usize> = 100..180;
/// Between two rounds of a host: a connection and a datagram to nobody.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a host waits for a peer, and a server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds between two visits of the server that is there.
const VISIT: usize = 10;

/// What they did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PestReport {
    /// Connections to nobody.
    pub connections: usize,
    /// Datagrams to nobody.
    pub datagrams: usize,
    /// Segments far outside the window of a connection.
    pub injected: usize,
    /// Visits of the server that is there, and those that failed.
    pub visits: usize,
    /// See there.
    pub failed: usize,
}

/// Running pests; they end when dropped.
#[derive(Debug)]
pub struct Pests {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Result<PestReport>>>>,
}

impl Pests {
    /// Has hosts pester: each begins ten connections and sends ten datagrams a second to hosts that
    /// are not there, and with every visit of the echo server puts segments a GiB ahead, and more,
    /// into that connection.
    ///
    /// # Errors
    /// When a thread cannot be started, or a provider lets packets for nobody pass.
    pub fn start(topology: &Topology, hosts: &[Host], server: SocketAddrV4) -> Result<Self> {
        let (first, last) = (server_address(ABSENT.start), server_address(ABSENT.end - 1));
        for provider in &topology.providers {
            let nobody = format!("add rule inet bench forward ip daddr {first}-{last} drop\n");
            provider.netns.nft(&nobody)?;
        }
        let mut pests = Self { stop: Arc::default(), threads: Vec::new() };
        for (index, host) in (0u64..).zip(hosts) {
            let (stop, address) = (Arc::clone(&pests.stop), host.address);
            let work = move || pester(address, server, index, &stop);
            pests.threads.push(host.netns.thread("pest", work)?);
        }
        Ok(pests)
    }

    /// Ends them; what all of them did.
    ///
    /// # Errors
    /// When one could not open a socket.
    pub fn stop(mut self) -> Result<PestReport> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = PestReport::default();
        for thread in std::mem::take(&mut self.threads) {
            let one = thread.join().map_err(|_| anyhow!("a pest panicked"))???;
            all.connections += one.connections;
            all.datagrams += one.datagrams;
            all.injected += one.injected;
            all.visits += one.visits;
            all.failed += one.failed;
        }
        Ok(all)
    }
}

impl Drop for Pests {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pester(
    address: Ipv4Addr,
    server: SocketAddrV4,
    seed: u64,
    stop: &AtomicBool,
) -> Result<PestReport> {
    let mut random = Random::new(seed + 1);
    let udp = UdpSocket::bind((address, 0))?;
    let mut report = PestReport::default();
    let mut trying: VecDeque<(Instant, OwnedFd)> = VecDeque::new();
    let mut nobody = || {
        let host = server_address(ABSENT.start + random.below(ABSENT.len()));
        SocketAddrV4::new(host, 1 + random.below(65_535) as u16)
    };
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        trying.push_back((Instant::now(), begin(nobody())?));
        report.connections += 1;
        while trying.pop_front_if(|(since, _)| since.elapsed() > PATIENCE).is_some() {}
        report.datagrams += usize::from(udp.send_to(&[0; 100], nobody()).is_ok());
        if round % VISIT == 0 {
            report.visits += 1;
            match visit(address, server) {
                Ok(injected) => report.injected += injected,
                Err(_) => report.failed += 1,
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(report)
}

/// Begins a connection, and does not wait for it.
fn begin(peer: SocketAddrV4) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &peer) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Asks the echo server, injects, asks again; segments injected.
fn visit(address: Ipv4Addr, server: SocketAddrV4) -> Result<usize> {
    let mut stream = TcpStream::connect_timeout(&server.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let source = SocketAddrV4::new(address, stream.local_addr()?.port());
    let mut ask = || -> Result<()> {
        stream.write_all(&[7; 512])?;
        Ok(stream.read_exact(&mut [0; 512])?)
    };
    ask()?;
    // The sequence numbers are not known here; one of four quarters is about a GiB ahead.
    for quarter in 0..4 {
        inject(source, server, quarter << 30)?;
    }
    ask()?;
    Ok(4)
}

/// Sends a segment with data of this sequence number.
fn inject(source: SocketAddrV4, server: SocketAddrV4, sequence: u32) -> Result<()> {
    const ACK_PSH: u8 = 0x18;
    const DATA: usize = 100;
    let (from, to) = (source.ip().octets(), server.ip().octets());
    let mut segment = vec![0; 20 + DATA];
    segment[..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&server.port().to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    (segment[12], segment[13]) = (5 << 4, ACK_PSH);
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let pseudo = checksum::pseudo4(from, to, weir_wire::tcp::PROTOCOL, segment.len() as u16);
    let sum = checksum::finish(checksum::add(pseudo, checksum::sum(&segment)));
    segment[16..18].copy_from_slice(&sum);
    // The kernel enters length and checksum (raw(7)).
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, weir_wire::tcp::PROTOCOL, 0, 0];
    packet.extend([from, to].concat());
    packet.extend(segment);
    let flags = SocketFlags::CLOEXEC;
    let raw = Some(ipproto::RAW);
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, flags, raw)?;
    let to = SocketAddrV4::new(*server.ip(), 0);
    rustix::net::sendto(&socket, &packet, SendFlags::empty(), &to)?;
    Ok(())
}
