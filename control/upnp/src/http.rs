//! Which requests are served, and by what (UDA §2, §3). A page that a browser of the LAN shows is
//! nobody who may ask: the host that is asked for is the gateway's address, no name that leads there,
//! and what browsers send of their own is refused.

use std::net::{IpAddr, SocketAddr};

use http::header::{CONTENT_TYPE, HOST, ORIGIN, REFERER, SERVER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use weir_ports::{Asker, IsBound, Store};

use crate::call::Call;
use crate::description;
use crate::device::{DEVICE_VERSION, Device, Service};
use crate::soap::{self, Action};

/// What it is, as answers say (UDA §1.3.3).
pub const PRODUCT: &str = concat!("Linux/0 UPnP/1.1 weir/", env!("CARGO_PKG_VERSION"));
/// The most headers of a request that is read.
pub const MAX_HEADERS: usize = 32;
/// Headers of a browser, beside these of [`http::header`].
const BROWSERS: [&str; 3] = ["sec-fetch-site", "sec-fetch-mode", "x-requested-with"];
/// What clients call themselves that know version 1 alone.
const VERSION_1_AGENTS: [&str; 2] = ["Microsoft", "FDSSDP"];

/// What is sent back.
#[derive(Debug)]
pub struct Answer {
    /// The response.
    pub response: Response<String>,
    /// Mappings are others than before: it holds once they are in force.
    pub changes: bool,
}

/// Where it is asked, by whom, and what is known there.
pub struct Server<'a> {
    /// The gateway's address that is asked.
    pub local: SocketAddr,
    /// What it is to hosts there.
    pub device: &'a Device,
    /// What hosts have.
    pub store: &'a mut Store,
    /// Who asks, and when.
    pub asker: Asker<'a>,
    /// Which ports sockets of the gateway have.
    pub is_bound: IsBound<'a>,
    /// Since when the address outside is what it is, milliseconds.
    pub since: u64,
}

impl Server<'_> {
    /// The answer to a request; none: who asks may not.
    pub fn answer(self, request: &Request<impl AsRef<[u8]>>) -> Option<Answer> {
        self.store.realm(self.asker).filter(|_| self.store.situation().upnp)?;
        Some(match self.serve(request) {
            Ok(answer) => answer,
            Err(status) => Answer::of(status, String::new()),
        })
    }

    fn serve(self, request: &Request<impl AsRef<[u8]>>) -> Result<Answer, StatusCode> {
        let headers = request.headers();
        if headers.len() > MAX_HEADERS {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        if !is_for(headers, self.local) {
            return Err(StatusCode::BAD_REQUEST);
        }
        if is_of_browser(headers) {
            return Err(StatusCode::FORBIDDEN);
        }
        let path = request.uri().path();
        match *request.method() {
            Method::GET => self.describe(path, headers).ok_or(StatusCode::NOT_FOUND),
            Method::POST => {
                let mut services = Service::ALL.into_iter();
                let service = services.find(|service| service.control() == path);
                self.control(
                    service.ok_or(StatusCode::NOT_FOUND)?,
                    headers,
                    request.body().as_ref(),
                )
            }
            _ => Err(StatusCode::NOT_IMPLEMENTED),
        }
    }

    fn describe(&self, path: &str, headers: &HeaderMap) -> Option<Answer> {
        let document = match path {
            description::ROOT if self.local.is_ipv4() && knows_version_1(headers) => {
                description::devices(self.device, 1)
            }
            description::ROOT => description::devices(self.device, DEVICE_VERSION),
            description::ROOT_1 => description::devices(self.device, 1),
            _ => {
                let versions = [DEVICE_VERSION, 1].into_iter();
                let mut all = versions.flat_map(|it| Service::ALL.map(|service| (service, it)));
                let (service, version) =
                    all.find(|(it, version)| it.description(*version) == path)?;
                description::service(service, version)
            }
        };
        Some(Answer::of(StatusCode::OK, document))
    }

    fn control(
        self,
        service: Service,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Answer, StatusCode> {
        // A form that a page sends has neither this type nor SOAPACTION, unless a browser has asked
        // first whether it may.
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let kind = text(CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case("text/xml") {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let action = headers.get("soapaction").and_then(|value| value.to_str().ok());
        let action = action.and_then(|header| Action::read(service, header, body));
        let action = action.ok_or(StatusCode::BAD_REQUEST)?;
        let Self { store, asker, is_bound, since, .. } = self;
        let mut call = Call { action: &action, store, asker, is_bound, since, changes: false };
        let (status, document) = match call.carry_out(service) {
            Ok(results) => (StatusCode::OK, action.answer(&results)),
            Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, soap::refusal(fault)),
        };
        Ok(Answer { changes: call.changes, ..Answer::of(status, document) })
    }
}

impl Answer {
    /// With a document, or none.
    pub fn of(status: StatusCode, document: String) -> Self {
        let mut response = Response::new(document);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static(PRODUCT));
        headers.insert("ext", HeaderValue::from_static(""));
        let kind = HeaderValue::from_static("text/xml; charset=\"utf-8\"");
        headers.insert(CONTENT_TYPE, kind);
        Self { response, changes: false }
    }
}

/// Is it for this address, by its number? A name that leads here is another's (DNS rebinding).
fn is_for(headers: &HeaderMap, local: SocketAddr) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse();
    let address = match host.parse::<SocketAddr>() {
        Ok(with_port) if with_port.port() != local.port() => return false,
        Ok(with_port) => Ok(with_port.ip()),
        Err(_) => bare(host),
    };
    address.is_ok_and(|address: IpAddr| address == local.ip())
}

/// Is it a client that gives up where it reads of another version than the first, whatever it looked for?
/// So do Windows and the Xbox.
fn knows_version_1(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.is_some_and(|agent| VERSION_1_AGENTS.iter().any(|name| agent.contains(name)))
}

fn is_of_browser(headers: &HeaderMap) -> bool {
    [ORIGIN, REFERER].iter().any(|name| headers.contains_key(name))
        || BROWSERS.iter().any(|name| headers.contains_key(*name))
}
