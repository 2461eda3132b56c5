//! weir-control, the control process, and weir, its command line.
//!
//! | module | what it is |
//! |---|---|
//! | [`site`] | the configuration file: read, checked, resolved to indices |
//! | [`watch`] | the kernel's links, addresses, routes and neighbours, and weir's rules |
//! | `routes` | when the kernel's routes are read anew |
//! | [`rules`] | the kernel's routing rules, as far as they can be followed |
//! | `destinations` | which destinations of packets from LANs are the kernel's |
//! | [`probe`] | the probers, each bound to its uplink |
//! | [`health`] | the state of each uplink, from signals and time |
//! | `implied` | what is probed where nothing is configured |
//! | `lans` | the LANs that are out of use |
//! | [`home`] | when flows leave the uplinks of a worse tier |
//! | `guard` | the nftables table that keeps the kernel from forwarding on its own |
//! | [`hooks`] | the operator's programs, run when a state changes |
//! | [`users`] | what users' connections say of the uplinks |
//! | [`load`] | load, capacity, and where new flows go |
//! | [`monitor`] | the health of all uplinks together, and what follows |
//! | `netdev` | which devices can transmit for XDP |
//! | [`channels`] | those that can only from as many CPUs as they have channels |
//! | [`grace`] | what an interface has lost and may have again in a moment |
//! | `near` | networks that are reached by one uplink alone |
//! | [`own`] | routes and rules for what the gateway itself sends |
//! | [`confine`] | commands that run by one uplink |
//! | [`buckets`] | which uplink takes which bucket of a policy |
//! | `complaint` | warnings that are said once |
//! | `trust` | whether anybody else can change a program that is run |
//! | `xdp` | which interfaces have an XDP program |
//! | `words` | uplinks' state words, for people |
//! | `time` | times and durations, for people |
//! | `ports` | numbers of ports and devices, which stay |
//! | [`dataplane`] | what the dataplane says of the devices |
//! | [`publish`] | from site and kernel to the state that is published |
//! | [`sysctls`] | the kernel's settings that a gateway takes |
//! | [`mod@file`] | the configuration file, and the last good one |
//! | [`state`] | what is kept on disk |
//! | [`by_hand`] | what was set by hand, for people |
//! | [`daemon`] | the control process |
//! | [`serve`] | the socket by which it is asked |
//! | `clerk` | command lines of those who ask |
//! | [`api`] | the requests that the command line makes of it |
//! | [`cli`] | the `weir` command |
#![forbid(unsafe_code)]

pub mod api;
pub mod bound;
pub mod buckets;
pub mod by_hand;
pub mod channels;
mod clerk;
pub mod cli;
mod complaint;
pub mod confine;
pub mod daemon;
pub mod dataplane;
mod destinations;
mod devices;
mod events;
pub mod file;
pub mod grace;
mod guard;
pub mod health;
pub mod home;
pub mod hooks;
pub mod hosts;
mod implied;
mod lans;
mod limits;
pub mod load;
pub mod monitor;
mod near;
mod netdev;
pub mod own;
mod ports;
pub mod probe;
pub mod publish;
mod routes;
pub mod routing;
pub mod rules;
pub mod serve;
pub mod site;
pub mod state;
pub mod sysctls;
mod time;
mod trust;
mod urgent;
pub mod users;
pub mod watch;
mod words;
mod xdp;
