//! Many short UDP flows: each one datagram to an echo server and its answer back.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::limits::bounded;
use crate::netns::Netns;
use crate::topology::Host;

/// The source port of the first flow of every host; the others follow.
pub const FIRST_PORT: u16 = 10_000;

/// Flows all hosts together have open at a time. Few enough for the kernel's queue of packets that
/// wait for a neighbour's address (`unres_qlen_bytes`, some 270 of them), which would drop the rest.
const IN_FLIGHT: usize = 128;

/// How long a host waits for the last answer of what it has open.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a host opens no more flows, however many are missing.
const BOUND: Duration = Duration::from_secs(60);

/// What became of the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UdpReport {
    /// Flows opened, one datagram each.
    pub sent: usize,
    /// Flows whose own datagram came back unchanged.
    pub answered: usize,
    /// Flows that received something else.
    pub wrong: usize,
}

/// Opens `flows` flows (at most 50 000) from every host, with source ports counting up from
/// [`FIRST_PORT`], to one server. Hosts work in parallel, a minute at most: where most answers are
/// missing, fewer flows are sent than asked for.
///
/// # Errors
/// When a socket cannot be opened. Missing answers are a result, not an error.
pub fn run(hosts: &[Host], server: SocketAddrV4, flows: usize) -> Result<UdpReport> {
    run_from(hosts, server, flows, FIRST_PORT)
}

/// As [`run`], with source ports counting up from `first_port`: flows that were not there before.
///
/// # Errors
/// As [`run`].
pub fn run_from(
    hosts: &[Host],
    server: SocketAddrV4,
    flows: usize,
    first_port: u16,
) -> Result<UdpReport> {
    let senders: Vec<_> = hosts
        .iter()
        .map(|host| Sender { netns: &host.netns, source: host.address.into(), flows })
        .collect();
    run_by(&senders, server.into(), first_port)
}

/// Who opens flows.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'n> {
    /// Its namespace.
    pub netns: &'n Netns,
    /// The address that it sends from.
    pub source: IpAddr,
    /// How many flows, at most 50 000.
    pub flows: usize,
}

/// As [`run_from`], by these senders, of either family.
///
/// # Errors
/// As [`run`].
pub fn run_by(senders: &[Sender<'_>], server: SocketAddr, first_port: u16) -> Result<UdpReport> {
    for sender in senders {
        bounded("the number of UDP flows per host", sender.flows, 50_000)?;
    }
    let wave = (IN_FLIGHT / senders.len().max(1)).max(1);
    let reports = std::thread::scope(|scope| {
        let threads: Vec<_> = senders
            .iter()
            .map(|Sender { netns, source, flows }| {
                let work =
                    move || netns.run(|| from_host((*source, first_port), server, *flows, wave));
                scope.spawn(work)
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a UDP generator panicked")))
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    reports.into_iter().try_fold(UdpReport::default(), |sum, report| {
        let report = report?;
        Ok(UdpReport {
            sent: sum.sent + report.sent,
            answered: sum.answered + report.answered,
            wrong: sum.wrong + report.wrong,
        })
    })
}

fn from_host(
    (address, first_port): (IpAddr, u16),
    server: SocketAddr,
    flows: usize,
    wave: usize,
) -> Result<UdpReport> {
    let mut report = UdpReport::default();
    let indices: Vec<u16> = (0..u16::try_from(flows)?).collect();
    let end = Instant::now() + BOUND;
    for wave in indices.chunks(wave).take_while(|_| Instant::now() < end) {
        let mut open = Vec::with_capacity(wave.len());
        for index in wave {
            let port = first_port + index;
            let socket = UdpSocket::bind((address, port))
                .and_then(|socket| socket.connect(server).map(|()| socket))
                .with_context(|| format!("cannot open UDP {address}:{port}"))?;
            let payload = payload(address, port);
            socket.send(&payload).with_context(|| format!("cannot send from {address}:{port}"))?;
            open.push((socket, payload));
        }
        report.sent += open.len();
        let deadline = Instant::now() + PATIENCE;
        for (socket, payload) in open {
            match answer(&socket, deadline) {
                Some(answer) if answer == payload => report.answered += 1,
                Some(_) => report.wrong += 1,
                None => {}
            }
        }
    }
    Ok(report)
}

/// Names the flow, so that an answer delivered to another one is noticed.
fn payload(address: IpAddr, port: u16) -> Vec<u8> {
    format!("flow {address}:{port}").into_bytes()
}

/// What the socket received before the deadline; an ICMP error counts as nothing.
fn answer(socket: &UdpSocket, deadline: Instant) -> Option<Vec<u8>> {
    let left = deadline.saturating_duration_since(Instant::now());
    // Zero would mean to wait forever.
    socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
    let mut buffer = vec![0; 128];
    let length = socket.recv(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}
