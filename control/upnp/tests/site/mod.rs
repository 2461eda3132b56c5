//! A gateway with a LAN, and what hosts ask it.
#![allow(dead_code, reason = "each of the tests has a part of it")]

#[path = "../../../ports/tests/site/mod.rs"]
mod ports;

use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use weir_ports::{Asker, Situation, Store};
use weir_upnp::{Answer, Device, Server, Service, soap};

pub const HOST: &str = "10.0.0.5";
pub const OTHER: &str = "10.0.0.6";
pub const HOST6: &str = "2001:db8:1::5";
pub const NOW: u64 = 5000;

pub use ports::ip;

pub fn situation() -> Situation {
    Situation { upnp: true, ..ports::situation() }
}

pub fn device() -> Device {
    Device::new(1_700_000_000, |device| [device.len() as u8; 16])
}

pub struct Site {
    pub store: Store,
    pub device: Device,
}

impl Default for Site {
    fn default() -> Self {
        let mut store = Store::default();
        store.follow(situation(), 0, |_| {});
        Self { store, device: device() }
    }
}

pub struct Reply {
    pub status: StatusCode,
    pub document: String,
    pub changes: bool,
}

impl Reply {
    /// What is between an element's ends; none: there is no such element.
    pub fn result(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.document.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    }

    /// The number of the fault; 0: it is none.
    pub fn fault(&self) -> u16 {
        let is_fault = self.result("errorCode").is_some();
        assert_eq!(self.status, if is_fault { 500 } else { 200 }, "{}", self.document);
        self.result("errorCode").map_or(0, |code| code.parse().unwrap())
    }
}

impl Site {
    pub fn serve(&mut self, from: &str, request: &Request<Vec<u8>>) -> Option<Answer> {
        let v6 = ip(from).is_ipv6();
        let local = SocketAddr::new(ip(if v6 { "2001:db8:1::1" } else { "10.0.0.1" }), 1900);
        let server = Server {
            local,
            device: &self.device,
            store: &mut self.store,
            asker: Asker { lan: "lan0", from: ip(from), now: NOW },
            is_bound: Some(&|port| port == 17_000),
            since: 2000,
        };
        server.answer(request)
    }

    pub fn reply(&mut self, from: &str, request: &Request<Vec<u8>>) -> Reply {
        let answer = self.serve(from, request).unwrap();
        let (head, document) = answer.response.into_parts();
        Reply { status: head.status, document, changes: answer.changes }
    }

    /// The answer to an action.
    pub fn ask(
        &mut self,
        from: &str,
        service: Service,
        action: &str,
        arguments: &[(&str, &str)],
    ) -> Reply {
        self.reply(from, &request(from, service, action, arguments))
    }

    /// The answer to an action of a port mapping's service, asked for as of version 1.
    pub fn ask_1(&mut self, from: &str, action: &str, arguments: &[(&str, &str)]) -> Reply {
        let mut request = request(from, Service::Connection, action, arguments);
        let urn = Service::Connection.urn(1);
        let header = format!("\"{urn}#{action}\"").parse().unwrap();
        request.headers_mut().insert("soapaction", header);
        let body = String::from_utf8(request.body().clone()).unwrap();
        *request.body_mut() = body.replace(&Service::Connection.urn(2), &urn).into();
        self.reply(from, &request)
    }

    /// Maps a port as clients do.
    pub fn map(&mut self, from: &str, changed: &[(&str, &str)]) -> Reply {
        let arguments = mapping(from, changed);
        self.ask(from, Service::Connection, "AddPortMapping", &arguments)
    }
}

/// Arguments of AddPortMapping, but for those that are given.
pub fn mapping<'a>(from: &'a str, changed: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut arguments = vec![
        ("NewRemoteHost", ""),
        ("NewExternalPort", "18080"),
        ("NewProtocol", "TCP"),
        ("NewInternalPort", "8080"),
        ("NewInternalClient", from),
        ("NewEnabled", "1"),
        ("NewPortMappingDescription", "a <game>"),
        ("NewLeaseDuration", "3600"),
    ];
    for (name, value) in changed {
        arguments.iter_mut().find(|(of, _)| of == name).unwrap().1 = value;
    }
    arguments
}

/// A request for an action.
pub fn request(
    from: &str,
    service: Service,
    action: &str,
    arguments: &[(&str, &str)],
) -> Request<Vec<u8>> {
    let urn = service.urn(service.version());
    let argument = |(name, value): &(&str, &str)| soap::element(name, value);
    let arguments: String = arguments.iter().map(argument).collect();
    let body = format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope \
         xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <u:{action} xmlns:u=\"{urn}\">{arguments}</u:{action}></s:Body></s:Envelope>"
    );
    let host = if from.contains(':') { "[2001:db8:1::1]:1900" } else { "10.0.0.1:1900" };
    let builder = Request::builder().method(Method::POST).uri(service.control());
    let builder = builder.header("host", host).header("content-type", "text/xml");
    let builder = builder.header("soapaction", format!("\"{urn}#{action}\""));
    builder.body(body.into_bytes()).unwrap()
}
