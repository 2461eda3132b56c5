//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 §4.1): all requests of an uplink by one socket for each
//! family, however many are under way.
//!
//! By a raw socket: ping sockets depend on the sysctl `ping_group_range`, which admits nobody by
//! default. A raw socket is given all ICMP that its device receives; a filter in the kernel lets
//! through the answers to its own identifier alone, so that a flood fills no queue.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Protocol, SockFilter, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use weir_health::ProbeError;
use weir_wire::checksum;

use super::bind::Binding;
use super::sniffer::{Answer, Sniffer};
use super::socket_error;

/// Header and a token of eight bytes.
const LENGTH: usize = 16;

/// Asks hosts by one uplink.
pub struct Pinger {
    binding: Binding,
    /// For IPv4 and IPv6, opened when first needed, and again after an error: the device or the
    /// address may be another one by then.
    sockets: [Mutex<Option<Arc<Echo>>>; 2],
}

impl Pinger {
    /// By this uplink.
    pub fn new(binding: Binding) -> Self {
        Self { binding, sockets: Default::default() }
    }

    /// Whose pinger it is.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Asks `address`. `token` tells the answer from those to other probes. The request has left
    /// when this returns; what it gives is ready when the answer has come.
    ///
    /// # Errors
    /// When it could not be sent.
    pub async fn ask(
        &self,
        address: IpAddr,
        token: u64,
        sniffer: Arc<Sniffer>,
    ) -> Result<impl Future<Output = Result<(), ProbeError>> + use<>, ProbeError> {
        let echo = self.open(address).map_err(|error| socket_error(&error))?;
        let (sequence, answered) = echo.expect(address, token);
        let asked = Instant::now();
        let request = request(address, echo.identifier, sequence, token);
        // For sending and receiving a raw socket is like one of UDP.
        if let Err(error) = echo.socket.send_to(&request, SocketAddr::new(address, 0)).await {
            echo.forget(sequence);
            *lock(self.socket(address)) = None;
            return Err(socket_error(&error));
        }
        let answer = Answer::echo(address, sequence, self.binding.source4, echo.identifier);
        let waiting = Waiting { echo, sequence };
        Ok(async move {
            // The socket is there for as long as somebody waits.
            let _waiting = waiting;
            let answered = async { answered.await.map_err(|_| ProbeError::Malformed) };
            sniffer.or_dropped(answer, asked, answered).await
        })
    }

    fn socket(&self, address: IpAddr) -> &Mutex<Option<Arc<Echo>>> {
        &self.sockets[usize::from(address.is_ipv6())]
    }

    fn open(&self, address: IpAddr) -> io::Result<Arc<Echo>> {
        let mut socket = lock(self.socket(address));
        if let Some(echo) = &*socket {
            return Ok(echo.clone());
        }
        let echo = Arc::new(Echo::open(&self.binding, address)?);
        Ok(socket.insert(echo).clone())
    }
}

/// A socket, and who waits for what comes in by it.
struct Echo {
    socket: Arc<UdpSocket>,
    identifier: u16,
    asked: Arc<Mutex<Asked>>,
    listener: AbortHandle,
}

#[derive(Default)]
struct Asked {
    /// Sequence number of the newest request.
    newest: u16,
    /// By sequence number. Far fewer are under way than there are numbers.
    requests: HashMap<u16, Request>,
}

struct Request {
    address: IpAddr,
    token: u64,
    answered: oneshot::Sender<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// A request whose answer somebody waits for.
struct Waiting {
    echo: Arc<Echo>,
    sequence: u16,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.echo.forget(self.sequence);
    }
}

impl Echo {
    fn open(binding: &Binding, address: IpAddr) -> io::Result<Self> {
        let (any, protocol): (IpAddr, _) = match address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Protocol::ICMPV4),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Protocol::ICMPV6),
        };
        let mut identifier = [0; 2];
        rustix::rand::getrandom(&mut identifier, rustix::rand::GetRandomFlags::empty())?;
        let identifier = u16::from_be_bytes(identifier);
        let socket = binding.socket(any, Type::RAW, protocol)?;
        socket.attach_filter(&filter(any, identifier))?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let asked = Arc::new(Mutex::new(Asked::default()));
        let listener = tokio::spawn(listen(socket.clone(), identifier, asked.clone()));
        Ok(Self { socket, identifier, asked, listener: listener.abort_handle() })
    }

    fn expect(&self, address: IpAddr, token: u64) -> (u16, oneshot::Receiver<()>) {
        let (answered, answer) = oneshot::channel();
        let mut asked = lock(&self.asked);
        asked.newest = asked.newest.wrapping_add(1);
        let sequence = asked.newest;
        asked.requests.insert(sequence, Request { address, token, answered });
        (sequence, answer)
    }

    fn forget(&self, sequence: u16) {
        lock(&self.asked).requests.remove(&sequence);
    }
}

/// Nobody panics with it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells those who wait.
async fn listen(socket: Arc<UdpSocket>, identifier: u16, asked: Arc<Mutex<Asked>>) {
    let mut packet = [0; 256];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut packet).await else {
            // Of a device that is gone, say; the next request is told, and makes another socket.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some((sequence, token)) = reply(&packet[..length], from.ip(), identifier) else {
            continue;
        };
        let mut asked = lock(&asked);
        let ours = |request: &Request| request.address == from.ip() && request.token == token;
        if asked.requests.get(&sequence).is_some_and(ours)
            && let Some(request) = asked.requests.remove(&sequence)
        {
            // It may have given up just now.
            let _ = request.answered.send(());
        }
    }
}

fn request(address: IpAddr, identifier: u16, sequence: u16, token: u64) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = if address.is_ipv4() { 8 } else { 128 };
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..].copy_from_slice(&token.to_be_bytes());
    if address.is_ipv4() {
        // The kernel makes that of ICMPv6 itself (RFC 3542 §3.1).
        let sum = !checksum::sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

const fn reply_type(of: IpAddr) -> u8 {
    if of.is_ipv4() { 0 } else { 129 }
}

/// Sequence number and token of an echo reply; `packet` is as a raw socket gives it: with IP header
/// for IPv4, without for IPv6.
fn reply(packet: &[u8], from: IpAddr, identifier: u16) -> Option<(u16, u64)> {
    let header = match from {
        IpAddr::V4(_) => packet.first().map_or(0, |byte| usize::from(byte & 15) * 4),
        IpAddr::V6(_) => 0,
    };
    let message: &[u8; LENGTH] = packet.get(header..)?.first_chunk()?;
    let [kind, code, _, _, a, b, c, d, token @ ..] = *message;
    let ours = [kind, code] == [reply_type(from), 0] && u16::from_be_bytes([a, b]) == identifier;
    ours.then(|| (u16::from_be_bytes([c, d]), u64::from_be_bytes(token)))
}

/// Accepts echo replies to an identifier, drops all else (`linux/bpf_common.h`).
fn filter(of: IpAddr, identifier: u16) -> [SockFilter; 7] {
    const LOAD_HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
    const LOAD_ZERO: u16 = 0x01; // BPF_LDX | BPF_IMM
    const LOAD_BYTE: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
    const LOAD_HALF: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
    const IS_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let begin = if of.is_ipv4() { LOAD_HEADER_LENGTH } else { LOAD_ZERO };
    [
        SockFilter::new(begin, 0, 0, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(IS_EQUAL, 0, 3, reply_type(of).into()),
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(IS_EQUAL, 0, 1, identifier.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn answer(address: IpAddr, identifier: u16) -> Vec<u8> {
        let mut message = request(address, identifier, 3, 7);
        message[0] = reply_type(address);
        let header: &[u8] = if address.is_ipv4() { &[0x46; 24] } else { &[] };
        [header, &message].concat()
    }

    #[test]
    fn a_request_has_a_good_checksum() {
        assert_eq!(checksum::sum(&request(V4, 0x0123, 0x4567, 0x89ab_cdef)), 0xffff);
    }

    #[test]
    fn its_answer_is_told_from_others() {
        for address in [V4, V6] {
            let good = answer(address, 9);
            assert_eq!(reply(&good, address, 9), Some((3, 7)));
            assert_eq!(reply(&answer(address, 8), address, 9), None, "of another socket");
            (0..good.len()).for_each(|end| assert_eq!(reply(&good[..end], address, 9), None));
            let mut question = good;
            let kind = question.len() - LENGTH;
            question[kind] = 8;
            assert_eq!(reply(&question, address, 9), None, "a request");
        }
    }
}
