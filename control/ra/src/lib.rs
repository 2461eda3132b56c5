//! Router advertisements (RFC 4861): what the hosts of a LAN are told of IPv6, and when.
//!
//! Nothing here has a clock, a socket or chance of its own: times in milliseconds and random numbers
//! are given. Who calls sends what comes out, see [`Advertiser`].
//!
//! | module | what it is |
//! |---|---|
//! | [`Advertiser`] | a LAN's: what it offers and has offered, made into messages when they are due |
//! | [`Advertisement`] | a message, as values and as bytes |
//! | [`Prefixes`] | the lifetimes of what is offered, and of what is no more (RFC 9096) |
//! | `told` | what hosts may still have of what is no more |
//! | [`Schedule`] | when a message is due |
//! | [`heard`] | what comes in: solicitations, and advertisements of others |
#![forbid(unsafe_code)]

mod advertisement;
mod advertiser;
pub mod heard;
mod prefixes;
mod schedule;
mod told;

pub use advertisement::{Advertisement, PrefixInformation, RouteInformation};
pub use advertiser::{Advertiser, Known, Settings};
pub use prefixes::{Offer, PREFERRED_LIMIT_S, Prefixes, VALID_LIMIT_S};
pub use schedule::Schedule;
