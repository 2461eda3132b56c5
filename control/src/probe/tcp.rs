//! A TCP connection.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use socket2::{Protocol, Type};
use tokio::net::TcpStream;
use weir_health::ProbeError;

use super::bind::Binding;
use super::sniffer::{Answer, Sniffer};
use super::socket_error;

/// Connects to `address` by the uplink. The connection has begun when this returns; what it gives is
/// ready when it is there.
///
/// # Errors
/// When it could not begin, or was refused at once.
pub fn connect(
    binding: &Binding,
    address: SocketAddr,
    sniffer: Arc<Sniffer>,
) -> Result<impl Future<Output = Result<TcpStream, ProbeError>> + use<>, ProbeError> {
    let asked = Instant::now();
    let begun = || {
        let socket = binding.socket(address.ip(), Type::STREAM, Protocol::TCP)?;
        match socket.connect(&address.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
            _ => TcpStream::from_std(socket.into()),
        }
    };
    let stream = begun().map_err(|error| socket_error(&error))?;
    let answer = Answer::handshake(address, stream.local_addr().ok());
    Ok(async move {
        let connected = async {
            stream.writable().await?;
            stream.take_error()?.map_or(Ok(()), Err)
        };
        let connected = async { connected.await.map_err(|error| socket_error(&error)) };
        sniffer.or_dropped(answer, asked, connected).await?;
        Ok(stream)
    })
}
