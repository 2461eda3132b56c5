//! `GET` by HTTP/1.1, plain or by TLS.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::bind::Binding;
use super::tcp;
use crate::health::{ProbeError, Url};

/// How much of a body is searched, bytes.
const BODY: usize = 64 * 1024;

/// What a server must say.
#[derive(Clone, Copy)]
pub struct Expect<'a> {
    /// The status; any from 200 to 299 when none.
    pub status: Option<u16>,
    /// What must be in the body.
    pub body: Option<&'a str>,
}

/// Trust in servers, made once when the first `https` probe needs it.
#[derive(Clone, Default)]
pub struct Trust(Arc<OnceLock<TlsConnector>>);

impl Trust {
    /// Trusts these roots alone.
    pub fn only(roots: RootCertStore) -> Self {
        let trust = Self::default();
        trust.0.get_or_init(|| connector(roots));
        trust
    }

    /// Trusts those of the system.
    fn connector(&self) -> &TlsConnector {
        self.0.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            let (good, bad) = roots.add_parsable_certificates(found.certs);
            if good == 0 || bad > 0 || !found.errors.is_empty() {
                let errors = found.errors;
                tracing::warn!(good, bad, ?errors, "not all root certificates can be used");
            }
            connector(roots)
        })
    }
}

fn connector(roots: RootCertStore) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of rustls' default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Asks for `url` at `address` by the uplink.
pub async fn get(
    binding: &Binding,
    trust: &Trust,
    url: &Url,
    address: SocketAddr,
    expect: Expect<'_>,
) -> Result<(), ProbeError> {
    let stream = tcp::connect(binding, address).await?;
    if !url.tls {
        return exchange(TokioIo::new(stream), url, expect).await;
    }
    let name = ServerName::try_from(url.host.clone()).map_err(|_| ProbeError::Tls)?;
    let stream = trust.connector().connect(name, stream).await.map_err(|_| ProbeError::Tls)?;
    exchange(TokioIo::new(stream), url, expect).await
}

async fn exchange<S>(stream: S, url: &Url, expect: Expect<'_>) -> Result<(), ProbeError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let malformed = |_| ProbeError::Malformed;
    let (mut sender, connection) = http1::handshake(stream).await.map_err(malformed)?;
    // Ends with this probe.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(url.path.as_str())
        .header(HOST, &url.authority)
        .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProbeError::Malformed)?;
    let response = sender.send_request(request).await.map_err(malformed)?;
    let status = response.status();
    if !expect.status.map_or(status.is_success(), |expected| expected == status.as_u16()) {
        return Err(ProbeError::HttpStatus(status.as_u16()));
    }
    let Some(text) = expect.body.filter(|text| !text.is_empty()) else { return Ok(()) };
    let mut body = response.into_body();
    let mut seen = Vec::new();
    while seen.len() < BODY
        && let Some(frame) = body.frame().await
    {
        // What was searched already, but for what may be the text's beginning, is not again.
        let new = seen.len().saturating_sub(text.len() - 1);
        seen.extend(frame.map_err(malformed)?.into_data().unwrap_or_default());
        if seen[new..].windows(text.len()).any(|part| part == text.as_bytes()) {
            return Ok(());
        }
    }
    Err(ProbeError::HttpBody)
}
