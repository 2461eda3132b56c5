//! Connections of HTTP: one request each, so many of a host and of a LAN, and each for so long.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use weir_api::time;
use weir_upnp::{Answer, http as protocol, soap};

use super::door::Door;
use super::{Asked, Gates, Heard};

/// How long a connection may take, with the time until what it asked for is in force.
const CONNECTION: Duration = Duration::from_secs(10);
/// How long until its headers are read.
const HEADERS: Duration = Duration::from_secs(3);
/// Connections of a host.
const PER_HOST: usize = 8;
/// Connections of a LAN.
const PER_LAN: usize = 64;
/// Bytes of a request that are held: of headers, or of the body that is on its way.
const BUFFER: usize = 16 << 10;

/// Takes connections of those that may ask.
pub async fn accept(
    listener: TcpListener,
    door: Weak<Door>,
    gates: Arc<Gates>,
    hear: mpsc::Sender<Heard>,
) {
    let open = Arc::new(Mutex::new(Open::default()));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Of no descriptors that are left, say.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(door) = door.upgrade() else { return };
        let admitted = gates.admit(&door.place.lan, from.ip(), time::monotonic_ms());
        let place = admitted.then(|| Place::take(&open, from.ip())).flatten();
        if let Some(place) = place {
            let client = Client { door: Arc::downgrade(&door), from, hear: hear.clone() };
            tokio::spawn(async move {
                client.serve(stream).await;
                drop(place);
            });
        }
    }
}

/// Who asks, and to whom that goes.
#[derive(Clone)]
struct Client {
    door: Weak<Door>,
    from: SocketAddr,
    hear: mpsc::Sender<Heard>,
}

/// It is not answered.
#[derive(Debug, Error)]
#[error("who asks is not answered")]
struct Unanswered;

impl Client {
    async fn serve(self, stream: TcpStream) {
        let service = service_fn(|request| self.clone().ask(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .keep_alive(false)
            .max_buf_size(BUFFER)
            .max_headers(protocol::MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = tokio::time::timeout(CONNECTION, connection).await {
            tracing::debug!(from = %self.from, "a connection of UPnP ends: {error}");
        }
    }

    async fn ask(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Unanswered> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, soap::LONGEST).collect().await else {
            return Ok(whole(Answer::of(StatusCode::PAYLOAD_TOO_LARGE, String::new())));
        };
        let door = self.door.upgrade().ok_or(Unanswered)?;
        let request = Request::from_parts(head, body.to_bytes());
        let (reply, answer) = oneshot::channel();
        let asked = Heard::Request(Asked { door, from: self.from, request, reply });
        self.hear.send(asked).await.map_err(|_| Unanswered)?;
        answer.await.map_err(|_| Unanswered)
    }
}

/// An answer as it is sent.
pub fn whole(answer: Answer) -> Response<Full<Bytes>> {
    answer.response.map(|document| Full::new(Bytes::from(document)))
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    of_host: HashMap<IpAddr, usize>,
}

/// One of them, until it is dropped.
struct Place {
    open: Arc<Mutex<Open>>,
    host: IpAddr,
}

impl Place {
    /// For one more of a host; none: there are enough.
    fn take(open: &Arc<Mutex<Open>>, host: IpAddr) -> Option<Self> {
        let mut all = open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = all.of_host.get(&host).copied().unwrap_or(0);
        if all.all >= PER_LAN || of_host >= PER_HOST {
            return None;
        }
        all.all += 1;
        all.of_host.insert(host, of_host + 1);
        drop(all);
        Some(Self { open: Arc::clone(open), host })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        all.all -= 1;
        let left = all.of_host.get(&self.host).map_or(0, |count| count - 1);
        match left {
            0 => drop(all.of_host.remove(&self.host)),
            left => drop(all.of_host.insert(self.host, left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_so_many_connections_and_a_lan_so_many() {
        let open = Arc::default();
        let host = |last: u8| IpAddr::from([10, 0, 0, last]);
        let of_one: Vec<_> = (0..PER_LAN).filter_map(|_| Place::take(&open, host(1))).collect();
        assert_eq!(of_one.len(), PER_HOST);
        let of_others: Vec<_> =
            (2..=u8::MAX).filter_map(|last| Place::take(&open, host(last))).collect();
        assert_eq!(of_one.len() + of_others.len(), PER_LAN);
        drop((of_one, of_others));
        assert!(Place::take(&open, host(1)).is_some());
        assert!(open.lock().unwrap().of_host.is_empty(), "nobody is remembered");
    }
}
