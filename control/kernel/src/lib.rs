//! The kernel: what is there, read as a [`weir_view::Kernel`], and what is to be, put in place. What
//! that is, others decide.
//!
//! | module | what it is |
//! |---|---|
//! | [`watch`] | links, addresses, routes, rules and neighbours, by netlink |
//! | [`events`] | what a change is about |
//! | [`links`] | changes of links, heard apart from all others |
//! | `message` | what the kernel's messages say |
//! | `socket` | sockets that hear events |
//! | `routes` | when routes are read anew |
//! | `devices`, `netdev`, `channels` | what devices can do |
//! | [`own`] | weir's own rules and routes |
//! | [`guard`] | the nftables table that keeps the kernel from forwarding on its own |
//! | [`sysctls`] | the settings that a gateway takes |
//! | [`bound`] | ports that sockets of the gateway have |
//! | [`confine`] | commands that run by one uplink |
//! | [`xdp`] | which interfaces have an XDP program |
#![forbid(unsafe_code)]

pub mod bound;
mod channels;
pub mod confine;
mod devices;
pub mod events;
pub mod guard;
pub mod links;
mod message;
mod netdev;
pub mod own;
mod peers;
mod routes;
mod socket;
pub mod sysctls;
mod tunnels;
pub mod watch;
pub mod xdp;
