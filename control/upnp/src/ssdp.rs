//! How hosts find the gateway: the Simple Service Discovery Protocol (UDA §1).

use std::net::SocketAddr;

use crate::description;
use crate::device::{DEVICE_VERSION, DEVICES, Device, Service, device_type};
use crate::presence;

/// For how long what is told holds, seconds (UDA §1.2.2: at least half an hour).
pub const MAX_AGE_S: u32 = 1800;
/// The longest message that is read, bytes.
pub const LONGEST: usize = 1024;
/// The longest time that answers may be spread over, whatever a search says, seconds (UDA §1.3.3).
const LONGEST_WAIT_S: u32 = 5;
/// Headers of a message that is read.
const MAX_HEADERS: usize = 16;
/// What comes with each answer and each notice: the version of the descriptions.
const CONFIG: u32 = 1;

/// What a host looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    target: String,
    /// The answers are spread over so many seconds, at most; none: it was asked for by itself.
    pub within: Option<u32>,
}

impl Search {
    /// Reads one; none: it is none that is answered.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        if datagram.len() > LONGEST || !request.parse(datagram).is_ok_and(|it| it.is_complete()) {
            return None;
        }
        if (request.method, request.path) != (Some("M-SEARCH"), Some("*")) {
            return None;
        }
        let header = |name: &str| {
            let mut found = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case(name));
            let value = str::from_utf8(found.next()?.value).ok()?;
            Some(value.trim())
        };
        // Some clients leave the quotes out.
        header("MAN").filter(|man| man.trim_matches('"') == "ssdp:discover")?;
        let within = header("MX").map(|mx| mx.parse().ok().filter(|mx: &u32| *mx > 0));
        Some(Self {
            target: header("ST")?.to_owned(),
            within: match within {
                Some(None) => return None,
                Some(Some(within)) => Some(within.min(LONGEST_WAIT_S)),
                None => None,
            },
        })
    }

    /// The answers (UDA §1.3.3). `place` is where hosts ask.
    pub fn answers(&self, device: &Device, place: SocketAddr) -> Vec<String> {
        let base = presence::base(place);
        let found = match self.target.as_str() {
            "ssdp:all" => targets(device),
            asked => target(device, asked).into_iter().collect(),
        };
        let answer = |(target, name): (String, String)| {
            // Who looks for the first version may know no other. Of IPv6 that has nothing.
            let is_first = place.is_ipv4() && is_earlier(&target);
            let root = if is_first { description::ROOT_1 } else { description::ROOT };
            format!(
                "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age={MAX_AGE_S}\r\nEXT:\r\n\
                 LOCATION: {base}{root}\r\nSERVER: {}\r\nST: {target}\r\nUSN: {name}\r\n{}\r\n",
                crate::http::PRODUCT,
                identity(device),
            )
        };
        found.into_iter().map(answer).collect()
    }
}

/// What the gateway says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It is there.
    Alive,
    /// It is there no more.
    ByeBye,
    /// It will be another from now on, by this number.
    Update(u32),
}

impl Notice {
    /// The messages (UDA §1.2); `group` is to whom, as `239.255.255.250:1900`.
    pub fn messages(self, device: &Device, group: &str, base: &str) -> Vec<String> {
        let location = format!("LOCATION: {base}{}\r\n", description::ROOT);
        let rest = match self {
            Self::Alive => format!(
                "NTS: ssdp:alive\r\nCACHE-CONTROL: max-age={MAX_AGE_S}\r\n{location}SERVER: {}\r\n",
                crate::http::PRODUCT
            ),
            Self::ByeBye => "NTS: ssdp:byebye\r\n".to_owned(),
            Self::Update(next) => {
                format!("NTS: ssdp:update\r\n{location}NEXTBOOTID.UPNP.ORG: {next}\r\n")
            }
        };
        let message = |(target, name): (String, String)| {
            format!(
                "NOTIFY * HTTP/1.1\r\nHOST: {group}\r\nNT: {target}\r\nUSN: {name}\r\n{rest}{}\r\n",
                identity(device),
            )
        };
        targets(device).into_iter().map(message).collect()
    }
}

fn identity(device: &Device) -> String {
    format!("BOOTID.UPNP.ORG: {}\r\nCONFIGID.UPNP.ORG: {CONFIG}\r\n", device.boot)
}

/// All that there is, each with its unique name (UDA tables 1-1 to 1-3).
fn targets(device: &Device) -> Vec<(String, String)> {
    let mut all = vec![named(device, 0, "upnp:rootdevice".to_owned())];
    for (index, name) in DEVICES.iter().enumerate() {
        all.push((device.names[index].clone(), device.names[index].clone()));
        all.push(named(device, index, device_type(name, DEVICE_VERSION)));
    }
    let service = |it: Service| named(device, it.device(), it.urn(it.version()));
    all.extend(Service::ALL.map(service));
    all
}

/// What a host looks for, if there is that. Who looks for an earlier version is told of that
/// (UDA §1.3.2).
fn target(device: &Device, asked: &str) -> Option<(String, String)> {
    let earlier = |index: usize| {
        (1..=DEVICE_VERSION).any(|version| asked == device_type(DEVICES[index], version))
    };
    if asked == "upnp:rootdevice" {
        Some(named(device, 0, asked.to_owned()))
    } else if let Some(name) = device.names.iter().find(|name| *name == asked) {
        Some((name.clone(), name.clone()))
    } else if let Some(index) = (0..DEVICES.len()).find(|index| earlier(*index)) {
        Some(named(device, index, asked.to_owned()))
    } else {
        let service = Service::ALL.into_iter().find(|service| service.is_named(asked))?;
        Some(named(device, service.device(), asked.to_owned()))
    }
}

/// Is a target a device or service of an earlier version than there is?
fn is_earlier(target: &str) -> bool {
    let is_device = DEVICES.iter().any(|name| target == device_type(name, 1));
    is_device || target == Service::Connection.urn(1)
}

fn named(device: &Device, index: usize, target: String) -> (String, String) {
    let name = format!("{}::{target}", device.names[index]);
    (target, name)
}
