//! What becomes of a packet and why, and what would become of flows after a change: found out by
//! the dataplane's own code, on a copy of what it works on.
//!
//! **The copy** is a [`Replica`]. It takes the regions' contents into memory of this process:
//! control page, bucket tables, sets, flow tables, adjacencies. Flows are copied entry by entry,
//! each whole; the published state as one publication. On that run the engines of all workers,
//! which adopt the flows as those of a new process do, and, where the regions were pinned, the XDP
//! program, loaded once more on maps of its own and run frame by frame (`BPF_PROG_TEST_RUN`). So
//! asking leaves nothing behind: no flow, no port, no counter of the gateway's. It takes as much
//! memory as the flow tables do, until it is done.
//!
//! **The packet** is made of what a [`Question`] says, with a SYN or, where there is a flow, a
//! segment of the connection. It goes by the copy's XDP program, then by its worker, and what left,
//! which counter moved and which entry stands in the table are the answer. Nothing is decided here.
//!
//! **The reasons** come from the same run. Steering tells each step to a `Trace`; the packet's path
//! has `()` for it, which compiles to nothing. The rest an [`Explanation`] reads from what is
//! published: of an uplink that is not chosen, its state, tier and weight.
//!
//! **A change** ([`Change`]) is made to the copy as the control process makes it: state words,
//! weights, bucket tables by the same code, a publication. Then the copy sweeps, and each flow's
//! next packet is sent: where it went is where the flow would go. See [`Forecast`]. Another file
//! ([`Reload`]) is made likewise, of what the control process derives of it.
//!
//! What the copy does not have, because the processes keep it to themselves: limits of rates (ICMP
//! errors, new flows of a host), which hosts have heavy flows, fragments that wait, ports drawn by
//! lot, and the load that spillover and `balance` go by. Answers say so where it may matter.
//!
//! | module | what it is |
//! |---|---|
//! | [`question`] | which packet: read from words, made a frame |
//! | [`capture`] | which packets: the flows of a file of tcpdump's |
//! | [`replica`] | the copy, and frames through it |
//! | [`xdp`] | its XDP program |
//! | [`explanation`] | what became of a packet, for people and machines |
//! | `explain` | asks the replica for it |
//! | `uplinks` | why this uplink and none of the others |
//! | `reasons` | what each counter means |
//! | [`change`] | a change, read from words, and made |
//! | [`reload`] | another file, made |
//! | [`forecast`] | what it does to flows and shares |
#![forbid(unsafe_code)]

pub mod capture;
pub mod change;
mod explain;
pub mod explanation;
pub mod forecast;
pub mod question;
mod reasons;
pub mod reload;
pub mod replica;
mod uplinks;
pub mod xdp;

pub use capture::Capture;
pub use change::Change;
pub use explanation::Explanation;
pub use forecast::Forecast;
pub use question::Question;
pub use reload::Reload;
pub use replica::Replica;
