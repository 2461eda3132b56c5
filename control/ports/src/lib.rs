//! Ports that hosts of LANs ask for, by whichever protocol: one quota, one owner of a port, one
//! record. There is no protocol here, no clock and no socket.
//!
//! | module | what it is |
//! |---|---|
//! | [`store`] | what is granted, renewed and ended |
//! | [`mapping`] | a port that a host has, and all of them |
//! | [`realm`] | what the gateway has for the hosts of a LAN, and its bounds |
//! | [`limiter`] | how often a host may ask |
#![forbid(unsafe_code)]

pub mod limiter;
pub mod mapping;
pub mod realm;
pub mod store;

pub use mapping::{Mapping, Owner};
pub use realm::{Limits, Outside, Realm, Reserved, Situation};
pub use store::{Asker, Denial, Denied, Filters, Granted, IsBound, Store, Unavailable, Wish};
