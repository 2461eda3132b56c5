//! Answers to probes as they come in, whatever this machine does with them then. An answer that came
//! in and that the probe's socket was not given was dropped by a firewall's `input` rule, say: the
//! link is well.
//!
//! By a packet socket, packet(7). The kernel gives it an IPv4 packet after all that it does for the
//! packet otherwise, and also if that was to drop it (`__netif_receive_skb_core`, net/core/dev.c).
//! What an `ingress` rule of a device drops, and what XDP takes, it is not given. It is open only
//! while all targets of some uplink are silent, and sees IPv4 alone.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::net::eth;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::sync::oneshot;
use weir_health::ProbeError;
use weir_wire::{icmp, ipv4, tcp, udp};

/// How long after the packet socket the probe's own may be looked at, given both at once.
const MOMENT: Duration = Duration::from_millis(50);
/// How often the thread looks whether it is to go on.
const LOOK: Duration = Duration::from_millis(200);
/// So many packets are read in one go, and then none for a while: a flood costs little, and hides
/// answers.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
/// So many answers are kept for probes that are not waiting yet: a near host answers at once.
const EARLY: usize = 64;
/// Bytes of a packet that tell what it answers: the longest header of IP, and what follows.
const ENOUGH: usize = 60 + icmp::HEADER_LEN;

/// What an answer has in its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    protocol: u8,
    /// Of an echo reply: the sequence number instead of the port.
    from: SocketAddrV4,
    /// Of an echo reply: the identifier instead of the port.
    to: SocketAddrV4,
}

impl Answer {
    /// A reply to an echo request from this address.
    pub fn echo(
        from: IpAddr,
        sequence: u16,
        to: Option<Ipv4Addr>,
        identifier: u16,
    ) -> Option<Self> {
        let IpAddr::V4(from) = from else { return None };
        let (from, to) = (SocketAddrV4::new(from, sequence), SocketAddrV4::new(to?, identifier));
        Some(Self { protocol: icmp::PROTOCOL, from, to })
    }

    /// The acceptance or refusal of a connection.
    pub fn handshake(from: SocketAddr, to: Option<SocketAddr>) -> Option<Self> {
        Self::between(tcp::PROTOCOL, from, to)
    }

    /// A datagram.
    pub fn datagram(from: SocketAddr, to: Option<SocketAddr>) -> Option<Self> {
        Self::between(udp::PROTOCOL, from, to)
    }

    fn between(protocol: u8, from: SocketAddr, to: Option<SocketAddr>) -> Option<Self> {
        let (SocketAddr::V4(from), Some(SocketAddr::V4(to))) = (from, to) else { return None };
        Some(Self { protocol, from, to })
    }

    /// What a packet that comes in may be.
    fn of(packet: &[u8]) -> Option<Self> {
        let ip = ipv4::Packet::new_unchecked(packet);
        let payload = packet.get(ip.header_len()..)?;
        let (from, to) = match ip.protocol() {
            icmp::PROTOCOL => {
                let echo = icmp::Packet::new_unchecked(payload);
                (echo.seq().to_be_bytes(), echo.ident())
            }
            tcp::PROTOCOL => {
                let segment = tcp::Packet::new_unchecked(payload);
                (segment.sport(), segment.dport())
            }
            udp::PROTOCOL => {
                let datagram = udp::Packet::new_unchecked(payload);
                (datagram.sport(), datagram.dport())
            }
            _ => return None,
        };
        let end =
            |address: [u8; 4], port| SocketAddrV4::new(address.into(), u16::from_be_bytes(port));
        let (from, to) = (end(ip.src(), from), end(ip.dst(), to));
        Some(Self { protocol: ip.protocol(), from, to })
    }
}

/// Listens for all uplinks' probes.
#[derive(Default)]
pub struct Sniffer {
    answers: Arc<Mutex<Answers>>,
    /// The thread listens for as long as this is there.
    listens: Mutex<Option<Arc<()>>>,
}

#[derive(Default)]
struct Answers {
    awaited: HashMap<Answer, oneshot::Sender<()>>,
    /// The last that came in and were not awaited, or not yet, and when they did.
    early: VecDeque<(Answer, Instant)>,
}

impl Sniffer {
    /// Listens, or does not any more.
    pub fn listen(&self, wanted: bool) {
        let mut listens = lock(&self.listens);
        if wanted == listens.is_some() {
            return;
        }
        *listens = wanted.then(Arc::default);
        let Some(token) = &*listens else { return };
        let (answers, token) = (Arc::clone(&self.answers), Arc::downgrade(token));
        // A thread's, because the kernel may take long to close a packet socket
        // (`packet_release`, net/packet/af_packet.c).
        let thread = std::thread::Builder::new().name("weir-sniffer".into());
        let started = open().and_then(|socket| thread.spawn(|| listen(socket, answers, token)));
        if let Err(error) = started {
            tracing::warn!("cannot see whether this machine drops answers to probes: {error}");
        }
    }

    /// What `result` gives; but [`ProbeError::Dropped`] once the answer has come in to what was
    /// asked then, and it has nothing to give.
    ///
    /// # Errors
    /// Those of `result`, and that one.
    pub async fn or_dropped<T>(
        &self,
        answer: Option<Answer>,
        asked: Instant,
        result: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        let came_in = async {
            match answer {
                Some(answer) => self.came_in(answer, asked).await,
                None => pending().await,
            }
            tokio::time::sleep(MOMENT).await;
        };
        tokio::select! {
            biased;
            result = result => result,
            () = came_in => Err(ProbeError::Dropped),
        }
    }

    async fn came_in(&self, answer: Answer, asked: Instant) {
        let (seen, sees) = oneshot::channel();
        if lock(&self.answers).expect(answer, asked, seen) {
            return;
        }
        let _waiting = Waiting { answers: &self.answers, answer };
        if sees.await.is_err() {
            // Another probe waits for the same.
            pending().await
        }
    }
}

impl Answers {
    /// Has an answer come in since it was asked for? If not, `seen` is told when it does. What is
    /// older answers an earlier question from the same port.
    fn expect(&mut self, answer: Answer, asked: Instant, seen: oneshot::Sender<()>) -> bool {
        match self.early.iter().position(|(early, at)| *early == answer && *at >= asked) {
            Some(place) => _ = self.early.remove(place),
            None => {
                self.awaited.insert(answer, seen);
                return false;
            }
        }
        true
    }

    fn record(&mut self, answer: Answer, at: Instant) {
        if let Some(seen) = self.awaited.remove(&answer) {
            // It may have given up just now.
            let _ = seen.send(());
            return;
        }
        self.early.push_back((answer, at));
        if self.early.len() > EARLY {
            self.early.pop_front();
        }
    }
}

/// An answer that is waited for, until dropped.
struct Waiting<'a> {
    answers: &'a Mutex<Answers>,
    answer: Answer,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.answers).awaited.remove(&self.answer);
    }
}

/// Nobody panics with it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> io::Result<Socket> {
    let protocol = eth::IP.as_raw().get() as i32;
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(protocol)))?;
    socket.attach_filter(&filter())?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

/// Takes note of what comes in, until the token is gone.
fn listen(mut socket: Socket, answers: Arc<Mutex<Answers>>, token: Weak<()>) {
    let mut packet = [0; ENOUGH];
    while token.strong_count() > 0 {
        for _ in 0..BATCH {
            // Nothing for a while, or an interface that was set down.
            let Ok(length) = socket.read(&mut packet) else { break };
            if let Some(answer) = Answer::of(&packet[..length]) {
                lock(&answers).record(answer, Instant::now());
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Accepts echo replies, the second segment of a handshake, resets, and datagrams from port 53; drops
/// all else (`linux/bpf_common.h`). The packet begins with its IPv4 header.
fn filter() -> [SockFilter; 15] {
    const LOAD_HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
    const LOAD_PROTOCOL: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const LOAD_BYTE: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
    const LOAD_HALF: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const IS_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const HAS: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const SYN_ACK: u32 = (tcp::flag::SYN | tcp::flag::ACK) as u32;
    const RST: u32 = tcp::flag::RST as u32;
    [
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_PROTOCOL, 0, 0, ipv4::field::PROTOCOL as u32),
        SockFilter::new(IS_EQUAL, 0, 2, icmp::PROTOCOL.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(IS_EQUAL, 8, 9, icmp::ECHO_REPLY.into()),
        SockFilter::new(IS_EQUAL, 0, 4, tcp::PROTOCOL.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, tcp::field::FLAGS as u32),
        SockFilter::new(AND, 0, 0, SYN_ACK | RST),
        SockFilter::new(IS_EQUAL, 4, 0, SYN_ACK),
        SockFilter::new(HAS, 3, 4, RST),
        SockFilter::new(IS_EQUAL, 0, 3, udp::PROTOCOL.into()),
        SockFilter::new(LOAD_HALF, 0, 0, 0),
        SockFilter::new(IS_EQUAL, 0, 1, 53),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_before_the_question_is_none_to_it() {
        let [server, port] = ["192.0.2.1:53", "192.0.2.2:5000"].map(|end| end.parse().unwrap());
        let answer = Answer::datagram(server, Some(port)).unwrap();
        let asked = Instant::now();
        let came_in = |at| {
            let mut answers = Answers::default();
            answers.record(answer, at);
            answers.expect(answer, asked, oneshot::channel().0)
        };
        assert!(!came_in(asked - Duration::from_millis(1)));
        assert!(came_in(asked + Duration::from_millis(1)));
    }
}
