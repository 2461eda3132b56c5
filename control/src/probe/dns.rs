//! A DNS query by UDP (RFC 1035).

use std::io;
use std::net::SocketAddr;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use socket2::{Protocol, Type};
use tokio::net::UdpSocket;

use super::bind::Binding;
use super::socket_error;
use crate::health::{ProbeError, Record};

/// Asks `server` and waits for its answer, which is told by `id` and the question.
pub async fn query(
    binding: &Binding,
    server: SocketAddr,
    name: &str,
    kind: Record,
    id: u16,
) -> Result<(), ProbeError> {
    let question = question(name, kind, id).ok_or(ProbeError::Malformed)?;
    let code = exchange(binding, server, &question).await.map_err(|e| socket_error(&e))?;
    match code {
        // That a name is not there is an answer, too: the server works.
        Rcode::NOERROR | Rcode::NXDOMAIN => Ok(()),
        code => Err(ProbeError::DnsCode(code.to_int())),
    }
}

async fn exchange(
    binding: &Binding,
    server: SocketAddr,
    question: &Message<Vec<u8>>,
) -> io::Result<Rcode> {
    let socket = binding.socket(server.ip(), Type::DGRAM, Protocol::UDP)?;
    socket.connect(&server.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(question.as_slice()).await?;
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
