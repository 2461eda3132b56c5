//! A DNS query by UDP (RFC 1035).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use socket2::{Protocol, Type};
use tokio::net::UdpSocket;
use weir_health::ProbeError;
use weir_site::health::Record;

use super::bind::Binding;
use super::sniffer::{Answer, Sniffer};
use super::socket_error;

/// Asks `server`; its answer is told by `id` and the question. The query has left when this returns;
/// what it gives is ready when the answer has come.
///
/// # Errors
/// When it could not be sent.
pub async fn query(
    binding: &Binding,
    server: SocketAddr,
    name: &str,
    kind: Record,
    id: u16,
    sniffer: Arc<Sniffer>,
) -> Result<impl Future<Output = Result<(), ProbeError>> + use<>, ProbeError> {
    let question = question(name, kind, id).ok_or(ProbeError::Malformed)?;
    let asked = Instant::now();
    let sent = send(binding, server, &question).await;
    let socket = sent.map_err(|error| socket_error(&error))?;
    let answer = Answer::datagram(server, socket.local_addr().ok());
    Ok(async move {
        let received =
            async { receive(&socket, &question).await.map_err(|error| socket_error(&error)) };
        match sniffer.or_dropped(answer, asked, received).await? {
            // That a name is not there is an answer, too: the server works.
            Rcode::NOERROR | Rcode::NXDOMAIN => Ok(()),
            code => Err(ProbeError::DnsCode(code.to_int())),
        }
    })
}

async fn send(
    binding: &Binding,
    server: SocketAddr,
    question: &Message<Vec<u8>>,
) -> io::Result<UdpSocket> {
    let socket = binding.socket(server.ip(), Type::DGRAM, Protocol::UDP)?;
    socket.connect(&server.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(question.as_slice()).await?;
    Ok(socket)
}

async fn receive(socket: &UdpSocket, question: &Message<Vec<u8>>) -> io::Result<Rcode> {
    let mut packet = [0; 4096];
    loop {
        let length = socket.recv(&mut packet).await?;
        let Ok(answer) = Message::from_octets(&packet[..length]) else { continue };
        if answer.is_answer(question) {
            return Ok(answer.header().rcode());
        }
    }
}

fn question(name: &str, kind: Record, id: u16) -> Option<Message<Vec<u8>>> {
    let name: Name<Vec<u8>> = name.parse().ok()?;
    let kind = match kind {
        Record::A => Rtype::A,
        Record::Aaaa => Rtype::AAAA,
        Record::Ns => Rtype::NS,
        Record::Soa => Rtype::SOA,
    };
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    message.push((name, kind)).ok()?;
    Some(message.into_message())
}
