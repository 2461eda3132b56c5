//! Link events, heard apart from all others.

use std::io;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::{AsyncSocketExt, TokioSocket};

use crate::events::{Event, HEAD_LEN};
use crate::socket;

/// A socket that hears the kernel's link events alone.
pub struct LinkEvents {
    socket: TokioSocket,
    head: Vec<u8>,
}

impl LinkEvents {
    /// Subscribes to them. Needs a tokio runtime, which drives it.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn subscribe() -> io::Result<Self> {
        let socket = socket::subscribe(&[MulticastGroup::Link])?;
        Ok(Self { socket, head: Vec::with_capacity(HEAD_LEN) })
    }

    /// The next one; [`Event::Unknown`] where some were lost.
    ///
    /// # Errors
    /// Those of recv(2): no more events are heard.
    pub async fn next(&mut self) -> io::Result<Event> {
        self.head.clear();
        match self.socket.recv(&mut self.head).await {
            Ok(()) => Ok(Event::of(&self.head)),
            Err(error) if socket::is_overrun(&error) => Ok(Event::Unknown),
            Err(error) => Err(error),
        }
    }
}
