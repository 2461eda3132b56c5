//! A TCP connection.

use std::net::SocketAddr;

use socket2::{Protocol, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::bind::Binding;
use super::socket_error;
use crate::health::ProbeError;

/// Connects to `address` by the uplink.
pub async fn connect(binding: &Binding, address: SocketAddr) -> Result<TcpStream, ProbeError> {
    let socket = binding.socket(address.ip(), Type::STREAM, Protocol::TCP);
    let socket = socket.map_err(|e| socket_error(&e))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await;
    stream.map_err(|e| socket_error(&e))
}
