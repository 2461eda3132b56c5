//! Ports that hosts of LANs ask for, by UPnP: an Internet gateway device, version 2 (IGD:2), which
//! clients of version 1 use as well. Datagrams, HTTP requests and times go in, answers come out, and
//! mappings go to [`weir_ports`]; there is no clock and no socket.
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the devices and services that there are, and their names |
//! | [`ssdp`] | how hosts find the gateway |
//! | [`presence`] | when it tells them that it is there |
//! | [`http`] | which requests are served, and by what |
//! | [`description`] | what the devices and services can do |
//! | [`soap`] | the form of actions and their results |
//! | [`fault`] | why an action is refused |
//! | [`call`] | an action that is carried out |
//! | `connection` | WANIPConnection:2: port mappings of IPv4 |
//! | `firewall` | WANIPv6FirewallControl:1: pinholes of IPv6 |
//! | `interface` | WANCommonInterfaceConfig:1 |
//!
//! Sources: UPnP Device Architecture 1.1 (UDA), InternetGatewayDevice:2, WANIPConnection:2 and
//! WANIPv6FirewallControl:1, as the Open Connectivity Foundation has them.
//!
//! There are no events: a subscription has the gateway connect to where its client says, which is
//! how CVE-2020-12695 ("CallStranger") reached others. So no variable is evented, and who subscribes
//! is refused.
#![forbid(unsafe_code)]

pub mod call;
mod connection;
pub mod description;
pub mod device;
pub mod fault;
mod firewall;
pub mod http;
mod interface;
pub mod presence;
pub mod soap;
pub mod ssdp;

pub use device::{Device, Service};
pub use fault::Fault;
pub use http::{Answer, Server};
pub use presence::Presence;

/// Where SSDP is heard (UDA §1.1), and where weir serves HTTP: the same number, so that filters have
/// one.
pub const PORT: u16 = 1900;
