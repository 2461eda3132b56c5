//! How much clients may have of the thread.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Answerer;

/// Bounds of what clients may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time, at all addresses together.
    pub connections: usize,
    /// How long a request may take to come.
    pub request: Duration,
    /// How long a connection may last: a client that reads slowly has so long.
    pub connection: Duration,
}

/// Those of the product.
pub const LIMITS: Limits = Limits {
    connections: 16,
    request: Duration::from_secs(2),
    connection: Duration::from_secs(10),
};

/// Longest head of a request, bytes: the least that hyper takes.
const HEAD: usize = 8192;
/// Fields of a head.
const FIELDS: usize = 64;

/// Room for so many connections.
#[derive(Clone)]
pub struct Room {
    limits: Limits,
    places: Arc<Semaphore>,
}

impl Room {
    pub fn new(limits: Limits) -> Self {
        Self { limits, places: Arc::new(Semaphore::new(limits.connections)) }
    }

    /// Has a connection's one request answered, as soon as there is room for it.
    pub async fn hold(&self, stream: TcpStream, answerer: Arc<Answerer>) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let Limits { request, connection, .. } = self.limits;
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answerer.answer(&request);
                async { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD)
                .max_headers(FIELDS)
                .timer(TokioTimer::new())
                .header_read_timeout(request)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(connection, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("metrics: {error}"),
                Err(_) => tracing::debug!("metrics: a client was too slow"),
            }
            drop(place);
        });
    }
}
