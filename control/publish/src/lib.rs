//! From a site and the kernel's view to what is published, and to what the kernel should hold.
//!
//! Decisions without effects: values in, values out. Who calls writes to shared memory and to the
//! kernel. [`Decider`] has all of it together: it takes what is new, and says what is to be done.
//!
//! | module | what it is |
//! |---|---|
//! | `decider` | all that is known of a gateway, and what follows from it |
//! | `derive` | the control page's half |
//! | `ports` | numbers of ports and devices, which stay |
//! | `delegations` | prefixes that are told while weir runs, and their ends |
//! | `path_prefixes` | the prefixes that providers delegate, and what translates them |
//! | [`onto_links`] | LANs that are translated into the network of an uplink's link |
//! | `port_addresses` | which addresses ICMP errors by each port are sent from |
//! | `retired` | addresses that flows keep and no new one gets |
//! | `services`, `prefix` | the services that are published; prefixes, as they are published |
//! | `mapped` | the ports that hosts ask for |
//! | `stateless` | whether packets need flows, and which leave without |
//! | `refused` | uplinks by devices that the kernel refuses to the dataplane |
//! | `tables` | the bucket tables |
//! | `states` | the state words of a family's paths |
//! | `overrides` | what is set by hand |
//! | [`beside`] | another file beside what is published |
//! | [`hosts`], `destinations` | destinations of packets from LANs that are the kernel's |
//! | `near` | networks that are reached by one uplink alone |
//! | [`home`] | when flows leave the uplinks of a worse tier |
//! | `advertised` | what the hosts of each LAN are told by router advertisements |
//! | [`implied`] | what is probed where nothing is configured |
//! | [`lans`] | the LANs that are out of use |
//! | [`own`] | rules and routes for what the gateway itself sends |
//! | [`guard`] | the nftables table that keeps the kernel from forwarding on its own |
#![forbid(unsafe_code)]

mod advertised;
pub mod beside;
mod decider;
mod delegations;
mod derive;
mod destinations;
#[cfg(test)]
mod fixture;
pub mod guard;
pub mod home;
pub mod hosts;
pub mod implied;
pub mod lans;
mod mapped;
mod near;
pub mod onto_links;
mod overrides;
pub mod own;
pub mod own_peers;
mod path_prefixes;
mod port_addresses;
mod ports;
mod prefix;
mod refused;
mod retired;
mod services;
mod stateless;
mod states;
mod tables;

pub use advertised::{Advertised, advertised};
pub use decider::{Decider, Effects, HISTORY, Judged, Now};
pub use delegations::{Delegations, Lease};
pub use derive::{Derived, derive};
pub use overrides::{Hand, Overrides};
pub use states::{Change, States};
pub use tables::Tables;
