//! Sends messages by UDP, and never waits: what the socket does not take at once is lost, and
//! counted.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use weir_api::time;
use weir_service::Complaint;
use weir_site::IpfixConfig;

use super::message::Message;
use super::record::Record;

/// How often templates are told: a collector that starts knows none (RFC 7011 §8.4).
const TEMPLATES: Duration = Duration::from_secs(30);

/// What was told, and what was not.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records that were sent.
    pub sent: AtomicU64,
    /// Records that the socket did not take.
    pub unsent: AtomicU64,
    /// Directions of flows that were over before they were read.
    pub unread: AtomicU64,
}

/// The way to a collector.
#[derive(Debug)]
pub struct Sender {
    config: IpfixConfig,
    socket: Option<UdpSocket>,
    message: Message,
    /// Data records that were sent, as far as it counts (RFC 7011 §3.1).
    sequence: u32,
    /// When templates were last told.
    told: Option<Instant>,
    counts: Arc<Counts>,
    complaint: Complaint,
}

impl Sender {
    /// One that has sent nothing.
    pub fn new(config: &IpfixConfig, counts: Arc<Counts>) -> Self {
        Self {
            config: config.clone(),
            socket: None,
            message: Message::new(),
            sequence: 0,
            told: None,
            counts,
            complaint: Complaint::default(),
        }
    }

    /// Makes a socket if there is none, and tells templates if it is time: once a second.
    pub fn keep_up(&mut self) {
        if self.socket.is_none() {
            match open(&self.config) {
                Ok(socket) => (self.socket, self.told) = (Some(socket), None),
                Err(error) => return self.complain(&error),
            }
        }
        if self.told.is_none_or(|told| told.elapsed() >= TEMPLATES) {
            self.flush();
            self.message.add_templates();
            self.flush();
            if self.socket.is_some() {
                self.told = Some(Instant::now());
                self.complaint.say(None);
            }
        }
    }

    /// Puts a record into the message, and sends that when it is full.
    pub fn add(&mut self, record: &Record<'_>) {
        if !self.message.add(record) {
            self.flush();
            self.message.add(record);
        }
    }

    /// Sends what there is.
    pub fn flush(&mut self) {
        if self.message.is_empty() {
            return;
        }
        let records = self.message.records();
        let bytes = self.message.finish((time::now_ms() / 1000) as u32, self.sequence);
        let sent = self.socket.as_ref().map(|socket| socket.send_to(bytes, self.config.collector));
        self.message.clear();
        let count = match &sent {
            Some(Ok(_)) => {
                self.sequence = self.sequence.wrapping_add(records);
                &self.counts.sent
            }
            _ => &self.counts.unsent,
        };
        count.fetch_add(records.into(), Ordering::Relaxed);
        if let Some(Err(error)) = sent
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            // Its interface may be another by now, or its address gone.
            self.socket = None;
            self.complain(&error);
        }
    }

    fn complain(&mut self, error: &std::io::Error) {
        self.complaint.say(Some(format!(
            "flows are not told to the collector {}: {error}. It is tried again every second, what \
             ends meanwhile is lost; `ip route get {}` says how it is reached",
            self.config.collector,
            self.config.collector.ip()
        )));
    }
}

fn open(config: &IpfixConfig) -> std::io::Result<UdpSocket> {
    let domain = Domain::for_address(config.collector);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = &config.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = config.source {
        socket.bind(&std::net::SocketAddr::new(source, 0).into())?;
    }
    Ok(socket.into())
}
