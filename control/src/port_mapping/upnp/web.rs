//! Connections of HTTP: one request each, so many of a host and of a LAN, and each for so long.

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
    let all = Arc::new(Mutex::new(Connections::default()));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Of no descriptors that are left, say.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(door) = door.upgrade() else { return };
        let admitted = gates.admit(&door.place.lan, from.ip(), time::monotonic_ms());
        let place = admitted.then(|| Place::take(&all, from.ip())).flatten();
        if let Some((place, ended)) = place {
            let client = Client { door: Arc::downgrade(&door), from, hear: hear.clone(), place };
            tokio::spawn(async move {
                tokio::select! {
                    () = client.serve(stream) => {}
                    _ = ended => {}
                }
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
    place: Arc<Place>,
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
        self.place.has_asked();
        let door = self.door.upgrade().ok_or(Unanswered)?;
        let request = Request::from_parts(head, body.to_bytes());
        let (reply, answer) = oneshot::channel();
        let asked = Asked { door, from: self.from, request, reply };
        self.hear.send(Heard::Request(Box::new(asked))).await.map_err(|_| Unanswered)?;
        answer.await.map_err(|_| Unanswered)
    }
}

/// An answer as it is sent.
pub fn whole(answer: Answer) -> Response<Full<Bytes>> {
    answer.response.map(|document| Full::new(Bytes::from(document)))
}

/// The connections of a LAN, from the oldest on.
#[derive(Debug, Default)]
struct Connections {
    all: Vec<Connection>,
    /// The number of the next.
    next: u64,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    host: IpAddr,
    /// Its request is there.
    has_asked: bool,
    /// It ends when this is dropped.
    _end: oneshot::Sender<()>,
}

impl Connections {
    /// One more of a host: its number, and what says that it is to end. In a LAN that is full one ends
    /// that has not asked yet. None: there are enough.
    fn add(&mut self, host: IpAddr) -> Option<(u64, oneshot::Receiver<()>)> {
        if self.all.iter().filter(|it| it.host == host).count() >= PER_HOST {
            return None;
        }
        if self.all.len() >= PER_LAN {
            self.all.remove(self.idle()?);
        }
        let number = self.next;
        self.next += 1;
        let (end, ended) = oneshot::channel();
        self.all.push(Connection { number, host, has_asked: false, _end: end });
        Some((number, ended))
    }

    /// The oldest that has not asked yet, of the host that has most such.
    fn idle(&self) -> Option<usize> {
        let all = || self.all.iter().filter(|it| !it.has_asked);
        let count = |of: &&Connection| all().filter(|it| it.host == of.host).count();
        // Of equals the last is the most.
        let oldest = all().rev().max_by_key(count)?.number;
        self.all.iter().position(|it| it.number == oldest)
    }
}

/// A connection among all of its LAN, until it is dropped.
struct Place {
    all: Arc<Mutex<Connections>>,
    number: u64,
}

impl Place {
    /// For one more of a host, and what says that it is to end; none: there are enough.
    fn take(
        all: &Arc<Mutex<Connections>>,
        host: IpAddr,
    ) -> Option<(Arc<Self>, oneshot::Receiver<()>)> {
        let (number, ended) = all.lock().unwrap_or_else(PoisonError::into_inner).add(host)?;
        Some((Arc::new(Self { all: Arc::clone(all), number }), ended))
    }

    /// Its request is there: it stays until that is answered.
    fn has_asked(&self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.all.iter_mut().find(|it| it.number == self.number) {
            own.has_asked = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.all.retain(|it| it.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_host_has_so_many_connections_and_a_lan_so_many() {
        let all = Arc::default();
        let of_one: Vec<_> = (0..PER_LAN).filter_map(|_| Place::take(&all, host(1))).collect();
        assert_eq!(of_one.len(), PER_HOST);
        let of_others: Vec<_> =
            (2..=u8::MAX).filter_map(|last| Place::take(&all, host(last))).collect();
        assert_eq!(all.lock().unwrap().all.len(), PER_LAN);
        drop((of_one, of_others));
        assert!(all.lock().unwrap().all.is_empty(), "nobody is remembered");
    }

    #[test]
    fn in_a_full_lan_the_oldest_ends_that_has_not_asked_of_the_host_with_most() {
        let all = Arc::default();
        let mut first = Place::take(&all, host(1)).unwrap();
        let mut of_most: Vec<_> = (0..3).map(|_| Place::take(&all, host(2)).unwrap()).collect();
        of_most[0].0.has_asked();
        let others: Vec<_> =
            (4..PER_LAN as u8).map(|last| Place::take(&all, host(last)).unwrap()).collect();
        let newest = Place::take(&all, host(200)).unwrap();
        let has_ended = |ended: &mut oneshot::Receiver<()>| {
            ended.try_recv() == Err(oneshot::error::TryRecvError::Closed)
        };
        let ended: Vec<bool> = of_most.iter_mut().map(|(_, ended)| has_ended(ended)).collect();
        assert_eq!(ended, [false, true, false]);
        assert!(!has_ended(&mut first.1), "of a host that has fewer");
        // Once all have asked, who comes is the one that waits.
        for (place, _) in others.iter().chain(&of_most).chain([&first, &newest]) {
            place.has_asked();
        }
        assert!(Place::take(&all, host(201)).is_none());
    }
}
