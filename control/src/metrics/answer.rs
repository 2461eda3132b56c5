//! Requests and responses.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;
use weir_metrics::Format;
use weir_shm::Error;

/// For how long a text is handed out before figures are read anew.
const FRESH: Duration = Duration::from_millis(100);

/// Reads figures and writes them.
type Render = Box<dyn Fn(Format) -> Result<String, Error> + Send + Sync>;

/// Answers requests.
pub struct Answerer {
    render: Render,
    last: Mutex<[Option<Page>; 2]>,
}

/// A text, and when its figures were read.
struct Page {
    read: Instant,
    text: Bytes,
}

impl Answerer {
    pub fn new(render: impl Fn(Format) -> Result<String, Error> + Send + Sync + 'static) -> Self {
        Self { render: Box::new(render), last: Mutex::default() }
    }

    /// GET and HEAD of `/metrics`; what else there may be is not here. No body is read.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return told(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = told(StatusCode::METHOD_NOT_ALLOWED, "metrics can be read alone\n");
            refused.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header's value"));
            return refused;
        }
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let format = Format::accepted(accept.unwrap_or_default());
        match self.text(format) {
            Ok(text) => response(StatusCode::OK, format.content_type(), text),
            Err(error) => told(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }

    /// What is fresh, or else is read now.
    fn text(&self, format: Format) -> Result<Bytes, Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let page = &mut last[usize::from(format == Format::OpenMetrics)];
        if let Some(Page { read, text }) = page
            && read.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let text = Bytes::from((self.render)(format)?);
        *page = Some(Page { read: Instant::now(), text: text.clone() });
        Ok(text)
    }
}

fn told(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn response(status: StatusCode, content_type: &str, body: Bytes) -> Response<Full<Bytes>> {
    let built = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    built.body(Full::new(body)).expect("a response of known parts")
}
