//! Real sockets whose packets have extension headers of IPv6 (RFC 3542 §6 to §9), by Python, which
//! lets a program set them.

use std::net::Ipv6Addr;
use std::process::Command;

use anyhow::{Context, Result};

use crate::listeners;
use crate::netns::Netns;
use crate::process::Process;

/// Where the server listens.
pub const PORT: u16 = 7777;

/// The headers of packets: eight bytes each, with nothing but padding.
#[derive(Clone, Copy, Debug)]
pub enum Headers {
    /// Destination options, behind a fragment header if there is one.
    Destination,
    /// Hop-by-hop options, before a fragment header.
    HopByHop,
    /// Both.
    Both,
}

impl Headers {
    fn options(self) -> &'static str {
        match self {
            Self::Destination => "IPV6_DSTOPTS",
            Self::HopByHop => "IPV6_HOPOPTS",
            Self::Both => "IPV6_HOPOPTS IPV6_DSTOPTS",
        }
    }
}

const COMMON: &str = "
import socket, sys
from socket import AF_INET6, IPPROTO_IPV6, SOCK_DGRAM, SOCK_STREAM
def extend(it, names):
    for name in names:
        it.setsockopt(IPPROTO_IPV6, getattr(socket, name), bytes([0, 0, 1, 4, 0, 0, 0, 0]))
";

/// Sends what it receives back, with the headers it came with.
const SERVER: &str = "
it = socket.socket(AF_INET6, SOCK_DGRAM)
for name in (socket.IPV6_RECVHOPOPTS, socket.IPV6_RECVDSTOPTS):
    it.setsockopt(IPPROTO_IPV6, name, 1)
it.bind((sys.argv[1], int(sys.argv[2])))
while True:
    data, headers, _, peer = it.recvmsg(65535, 4096)
    it.sendmsg([data], headers, 0, peer)
";

/// Prints how many datagrams came back whole, with the headers they were sent with.
const CLIENT: &str = "
it = socket.socket(AF_INET6, SOCK_DGRAM)
names = sys.argv[4:]
extend(it, names)
for name in names:
    it.setsockopt(IPPROTO_IPV6, getattr(socket, name.replace('V6_', 'V6_RECV')), 1)
it.settimeout(2)
it.connect((sys.argv[1], int(sys.argv[2])))
back = 0
for number in range(20):
    sent = bytes([number]) * int(sys.argv[3])
    it.send(sent)
    data = b''
    try:
        while data != sent:
            data, headers, _, _ = it.recvmsg(65535, 4096)
    except TimeoutError:
        continue
    back += len(headers) == len(names)
print(back)
";

/// Prints how many bytes of an HTTP answer came over a connection with these headers.
const DOWNLOAD: &str = "
it = socket.socket(AF_INET6, SOCK_STREAM)
extend(it, sys.argv[4:])
it.settimeout(10)
it.connect((sys.argv[1], int(sys.argv[2])))
it.send(b'GET ' + sys.argv[3].encode() + b' HTTP/1.0\\r\\n\\r\\n')
bytes_read = 0
while data := it.recv(65536):
    bytes_read += len(data)
print(bytes_read)
";

fn python(program: &str, address: Ipv6Addr, port: u16) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &format!("{COMMON}{program}"), &address.to_string(), &port.to_string()]);
    command
}

fn number(netns: &Netns, mut command: Command) -> Result<usize> {
    let printed = String::from_utf8(netns.output(&mut command)?.stdout)?;
    printed.trim().parse().with_context(|| format!("not a number: {printed}"))
}

/// Starts a server that sends back what it receives, with the headers it came with.
///
/// # Errors
/// When it does not come to listen.
pub fn serve(netns: &Netns, address: Ipv6Addr) -> Result<Process> {
    let server = netns.spawn(&mut python(SERVER, address, PORT))?;
    listeners::wait_for_udp(netns, PORT)?;
    Ok(server)
}

/// Sends twenty datagrams of so many bytes, with these headers, one after another to the server: how
/// many came back as they were.
///
/// # Errors
/// When Python fails.
pub fn exchange(netns: &Netns, server: Ipv6Addr, headers: Headers, bytes: usize) -> Result<usize> {
    let mut command = python(CLIENT, server, PORT);
    command.arg(bytes.to_string()).args(headers.options().split(' '));
    number(netns, command)
}

/// Asks an HTTP server for a path, by a connection with these headers: bytes that it answered.
///
/// # Errors
/// When Python fails, or is not answered.
pub fn download(
    netns: &Netns,
    (server, port): (Ipv6Addr, u16),
    path: &str,
    headers: Headers,
) -> Result<usize> {
    let mut command = python(DOWNLOAD, server, port);
    command.arg(path).args(headers.options().split(' '));
    number(netns, command)
}
