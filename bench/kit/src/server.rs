//! Servers in the Internet: echo over TCP and UDP, and downloads of a known content.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::netns::Netns;

/// The port of TCP and UDP echo (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// The port of HTTP downloads: `GET /N` answers with [`content`]`(N)`.
pub const HTTP_PORT: u16 = 80;

/// Longest download, bytes.
const MAX_CONTENT: usize = 1 << 30;

/// Receive buffer of UDP echo, bytes: clients in many namespaces send at once.
const BUFFER: usize = 16 << 20;

/// How often a server looks whether it should end, and how long it waits for a silent client.
const PATIENCE: Duration = Duration::from_millis(100);
const SILENCE: Duration = Duration::from_secs(60);

/// `length` bytes that every caller can compute and that no misplaced block would match.
#[must_use]
pub fn content(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(length).collect()
}

/// Echo and download servers on one address; they stop when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Server {
    /// Starts the servers in `netns` on `address`. They answer as soon as this returns.
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub fn start(netns: &Netns, address: impl Into<IpAddr>) -> Result<Self> {
        let address = address.into();
        let bound = netns.run(|| -> io::Result<_> {
            let udp = UdpSocket::bind((address, ECHO_PORT))?;
            // Beyond `rmem_max`, which is root's privilege.
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&udp, BUFFER)?;
            Ok((
                udp,
                TcpListener::bind((address, ECHO_PORT))?,
                TcpListener::bind((address, HTTP_PORT))?,
            ))
        })?;
        let (udp, echo, http) =
            bound.with_context(|| format!("cannot bind {address} in {}", netns.name()))?;
        let mut server = Self { stop: Arc::default(), threads: Vec::new() };
        server.add("udp-echo", move |stop| echo_datagrams(&udp, stop))?;
        server.add("tcp-echo", move |stop| accept(&echo, stop, echo_stream))?;
        server.add("http", move |stop| accept(&http, stop, serve_content))?;
        Ok(server)
    }

    fn add(
        &mut self,
        name: &str,
        work: impl FnOnce(&AtomicBool) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        let name = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || work(&stop).map_err(|error| anyhow!("server {name} failed: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Stops the servers and reports what went wrong in them.
    ///
    /// # Errors
    /// When a server could not go on before it was told to stop. A client that broke its
    /// connection is not the server's failure.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a server thread panicked")))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            // A datagram that cannot be sent back is lost, like any other: the client counts.
            Ok((length, client)) => _ = socket.send_to(&buffer[..length], client),
            Err(error) if would_block(&error) => {}
            // An ICMP error about an earlier answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    stop: &AtomicBool,
    serve: fn(TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    listener.set_nonblocking(true)?;
    let patience = Timespec::try_from(PATIENCE).expect("a short time");
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                // Ends with its connection; what breaks it is the client's to report.
                std::thread::Builder::new()
                    .name("connection".into())
                    .stack_size(256 * 1024)
                    .spawn(move || drop(serve(stream)))?;
            }
            Err(error) if would_block(&error) => {}
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn echo_stream(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16384];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn serve_content(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?.take(8192));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    // The rest of the head must be read, or closing the socket would reset the connection.
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut writer = stream;
    let Some(length) = requested(&request) else {
        return writer.write_all(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    write!(writer, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
    writer.write_all(&content(length))
}

/// The N of `GET /N HTTP/1.1`.
fn requested(line: &str) -> Option<usize> {
    let path = line.strip_prefix("GET /")?.split(' ').next()?;
    path.parse().ok().filter(|&length| length <= MAX_CONTENT)
}

/// The URL of `length` bytes of [`content`] on the server at `address`.
#[must_use]
pub fn content_url(address: Ipv4Addr, length: usize) -> String {
    format!("http://{address}:{HTTP_PORT}/{length}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_the_length_asked_for_and_no_repeated_block() {
        let bytes = content(100_003);
        assert_eq!(bytes.len(), 100_003);
        let blocks: std::collections::HashSet<_> = bytes.chunks(8).collect();
        assert_eq!(blocks.len(), bytes.chunks(8).len());
    }

    #[test]
    fn requests_name_a_length() {
        assert_eq!(requested("GET /1000 HTTP/1.1\r\n"), Some(1000));
        for line in ["", "GET / HTTP/1.1\r\n", "POST /1 HTTP/1.1\r\n", "GET /x HTTP/1.1\r\n"] {
            assert_eq!(requested(line), None, "{line:?}");
        }
        assert_eq!(requested(&format!("GET /{} HTTP/1.1", MAX_CONTENT + 1)), None);
    }
}
