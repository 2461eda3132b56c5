//! Netlink sockets that hear groups of events.

use std::io;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;

/// A socket that hears the events of these groups.
pub fn subscribe(groups: &[MulticastGroup]) -> io::Result<TokioSocket> {
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

/// Does the error say that events were lost?
pub fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}
