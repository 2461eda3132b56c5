//! `GET` by HTTP/1.1, plain or by TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};
use weir_health::{ProbeError, TlsFault};
use weir_site::health::Url;

use super::bind::Binding;
use super::sniffer::Sniffer;
use super::{socket_error, tcp};

/// How much of a body is searched, bytes.
const BODY: usize = 64 * 1024;

/// How long roots are used before they are read anew: the system's may have changed.
const READ_ANEW: Duration = Duration::from_secs(3600);
/// The same where none could be read.
const READ_SOON: Duration = Duration::from_secs(60);

/// What a server must say.
pub struct Expect {
    /// The status; any below 500 when none.
    pub status: Option<u16>,
    /// What must be in the body.
    pub body: Option<String>,
}

/// Trust in servers, by the system's roots: read when the first `https` probe needs them, and anew
/// every hour.
#[derive(Clone, Default)]
pub struct Trust(Arc<Mutex<Option<Roots>>>);

struct Roots {
    connector: TlsConnector,
    /// None: for ever.
    until: Option<Instant>,
}

impl Trust {
    /// Trusts these roots alone.
    pub fn only(roots: RootCertStore) -> Self {
        let roots = Roots { connector: connector(roots), until: None };
        Self(Arc::new(Mutex::new(Some(roots))))
    }

    async fn connector(&self) -> TlsConnector {
        let mut roots = self.0.lock().await;
        if let Some(Roots { connector, until }) = &*roots
            && until.is_none_or(|until| Instant::now() < until)
        {
            return connector.clone();
        }
        // Dozens of files: this thread has other work.
        let read = spawn_blocking(of_the_system).await.ok().flatten();
        let lasts = if read.is_some() { READ_ANEW } else { READ_SOON };
        let before = roots.take().map(|before| before.connector);
        let connector = read.or(before).unwrap_or_else(|| connector(RootCertStore::empty()));
        let until = Some(Instant::now() + lasts);
        roots.insert(Roots { connector, until }).connector.clone()
    }
}

/// None without a single root.
fn of_the_system() -> Option<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (good, bad) = roots.add_parsable_certificates(found.certs);
    if good == 0 || bad > 0 || !found.errors.is_empty() {
        let errors = found.errors;
        tracing::warn!(good, bad, ?errors, "not all root certificates can be used");
    }
    (good > 0).then(|| connector(roots))
}

fn connector(roots: RootCertStore) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of rustls' default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Asks for `url` at `address` by the uplink. The connection has begun when this returns; what it
/// gives is ready when the answer has come.
///
/// # Errors
/// When the connection could not begin.
pub fn get(
    binding: &Binding,
    trust: &Trust,
    url: Url,
    address: SocketAddr,
    expect: Expect,
    sniffer: Arc<Sniffer>,
) -> Result<impl Future<Output = Result<(), ProbeError>> + use<>, ProbeError> {
    let stream = tcp::connect(binding, address, sniffer)?;
    let trust = trust.clone();
    Ok(async move {
        let stream = stream.await?;
        if !url.tls {
            return exchange(TokioIo::new(stream), &url, &expect).await;
        }
        let name = ServerName::try_from(url.host.clone());
        let name = name.map_err(|_| ProbeError::Tls(TlsFault::WrongName))?;
        let stream = trust.connector().await.connect(name, stream).await;
        exchange(TokioIo::new(stream.map_err(|error| tls_error(&error))?), &url, &expect).await
    })
}

/// What a handshake failed of.
fn tls_error(error: &io::Error) -> ProbeError {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        let broken = error.raw_os_error().is_none();
        return if broken { ProbeError::Tls(TlsFault::Protocol) } else { socket_error(error) };
    };
    ProbeError::Tls(match inner {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                TlsFault::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsFault::NotValidYet
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFault::WrongName
            }
            CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
            CertificateError::Revoked => TlsFault::Revoked,
            _ => TlsFault::Certificate,
        },
        _ => TlsFault::Protocol,
    })
}

async fn exchange<S>(stream: S, url: &Url, expect: &Expect) -> Result<(), ProbeError>
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
    if !expect.status.map_or(status.as_u16() < 500, |expected| expected == status.as_u16()) {
        return Err(ProbeError::HttpStatus(status.as_u16()));
    }
    let body = expect.body.as_deref();
    let Some(text) = body.filter(|text| !text.is_empty()) else { return Ok(()) };
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
