//! The user tier of one worker: batches of packets in, packets and drops out. No clock, no system
//! call, no device: time and frames are handed in.
//!
//! An [`Engine`] is a context, which is the published state, adjacencies, counters and limits, and
//! the worker's sessions in each address family, which are a flow table and what belongs to flows.
//! While no uplink has a path of IPv6, XDP leaves all of that to the kernel.
//!
//! A batch is split by family, and each part goes through in stages, so that the memory of one packet
//! is on its way while the next is parsed: *classify* (parse, hash, ask for its tags), ask for its
//! slot, *look up*, *act*. Acting on the next packet of an established flow is the fast path; every
//! other packet takes the slow path.
//!
//! | module | what it is |
//! |---|---|
//! | `context` | what the sessions have in common |
//! | `sessions` | the flows, and what belongs to them |
//! | `batch` | the stages, and the fast path |
//! | `slow_path` | packets that begin, change or end a flow |
//! | `admit` | a flow begins, or leaves an uplink that is down with a packet of its own |
//! | `agreed` | a flow without ports goes where its host and server have agreed on it |
//! | `outside` | whom a packet from an uplink asks for, and whether it may |
//! | `published` | a flow begins outside |
//! | `hairpin` | the same by a host of a LAN, by the address that the service has outside |
//! | `let_in` | the same, of a datagram that a mapping lets in |
//! | `nat_log` | what the log of allocations is told |
//! | `inside_hosts` | where the hosts of published services are |
//! | `asked_hosts` | the same of others that are asked for |
//! | `prefixes` | what prefix translation makes of a source |
//! | `stateless` | packets that are sent on without a flow, where others have one |
//! | `carry` | the same where no packet needs one |
//! | `claims` | a flow's packets come from another hardware address: whose its answers are |
//! | `errors` | ICMP errors |
//! | `filter` | what rules deny |
//! | `fragments` | fragments go where their first goes, and wait for it |
//! | `given` | addresses that the gateway was given: flows with whom had them outside end |
//! | `known_hosts` | hosts that the kernel knows, whose new flows are evidence |
//! | `unknown_hosts` | hosts that the table of adjacencies has no room for |
//! | `prefetch` | what a new flow will need is prefetched |
//! | `aging` | flows end and move without a packet: the steady walk over the table |
//! | `split` | packets that are larger than their way out leave in fragments |
//! | `steered` | why a packet takes its uplink, for those who ask |
//! | `sweep` | connections of an uplink that went down end at once |
//! | `complete` | checksums that a sender left to its device |
//! | `prepare` | flows that an earlier process left: whose each is now |
//! | `adopt` | its owner takes it over |

mod admit;
mod adopt;
mod aging;
mod agreed;
mod asked_hosts;
mod batch;
mod carry;
mod claims;
mod complete;
mod context;
mod errors;
mod filter;
mod fragments;
mod given;
mod hairpin;
mod inside_hosts;
mod known_hosts;
mod let_in;
mod nat_log;
mod outside;
mod prefetch;
mod prefixes;
mod prepare;
mod published;
mod sessions;
mod slow_path;
mod split;
mod standing;
mod stateless;
mod steered;
mod sweep;
mod unknown_hosts;

use std::net::IpAddr;

use weir_layout::Family as Ip;
use weir_layout::counters::Counter;
use weir_layout::flow::PAGE;
use weir_shm::adjacencies::Adjacencies;
use weir_shm::allowances::Allowances;
use weir_shm::control::{ControlRegion, Current};
use weir_shm::counters::Counters;
use weir_shm::flows::{FlowTable, FlowTable4};
use weir_shm::nat_log::NatLog;
use weir_shm::observations::Observations;
use weir_wire::ethernet;
use weir_wire::family::{Family, V4, V6};

pub use agreed::Agreements;
pub use claims::{Owner, SILENT_MS};
use context::Context;
use sessions::Sessions;
pub use steered::Steered;

use crate::packet::{Buffer, Output, Received};
use crate::shares::HostFlows;

/// Slots of the IPv6 flow table while no uplink has a path of IPv6: one page.
pub const FLOW_SLOTS6: u32 = PAGE;
/// Most packets that go through the stages together.
pub const BATCH: usize = 64;

/// The regions a worker works on.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Control page and buckets.
    pub control: ControlRegion,
    /// IPv4 flow table.
    pub flows: FlowTable4,
    /// IPv6 flow table.
    pub flows6: FlowTable<V6>,
    /// Where frames go next.
    pub adjacencies: Adjacencies,
    /// What sources may send to workers' sockets.
    pub allowances: Allowances,
    /// Counters.
    pub counters: Counters,
    /// What is seen of new connections.
    pub observations: Observations,
    /// Where allocations of NAT are told, if they are logged.
    pub nat_log: Option<NatLog>,
    /// Flows of hosts, by all workers of this process.
    pub host_flows: HostFlows,
    /// What hosts have agreed on in IPv4 and IPv6, by all workers of this process.
    pub agreements: [Agreements; Ip::COUNT],
    /// Key of the flow hash.
    pub hash_key: [u64; 2],
}

impl Regions {
    /// Regions of this process alone, with a flow table of `slots` slots.
    pub fn anonymous(slots: u32, hash_key: [u64; 2]) -> std::io::Result<Self> {
        Ok(Self {
            control: ControlRegion::anonymous()?,
            flows: FlowTable4::anonymous(slots)?,
            flows6: FlowTable::anonymous(FLOW_SLOTS6)?,
            adjacencies: Adjacencies::anonymous(hash_key)?,
            allowances: Allowances::anonymous()?,
            counters: Counters::anonymous()?,
            observations: Observations::anonymous()?,
            nat_log: None,
            host_flows: HostFlows::default(),
            agreements: Default::default(),
            hash_key,
        })
    }
}

/// One worker's part of the dataplane.
#[derive(Debug)]
pub struct Engine {
    context: Context,
    v4: Sessions<V4>,
    v6: Sessions<V6>,
}

/// Why a packet ends here.
type DropReason = Counter;

impl Engine {
    /// Worker `id` of `workers`. `entropy` is a secret of this process.
    pub fn new(id: u8, workers: u8, regions: &Regions, entropy: [u64; 2]) -> Self {
        let workers = workers.max(1);
        Self {
            context: Context::new(id, workers, regions, entropy),
            v4: Sessions::new(id, regions, regions.flows.clone(), entropy),
            v6: Sessions::new(id, regions, regions.flows6.clone(), entropy),
        }
    }

    /// Takes over the published state if there is a newer one; says whether it did.
    pub fn refresh(&mut self) -> bool {
        let newer = self.context.refresh();
        if newer {
            let half = &self.context.snapshot.half;
            self.v4.sweep.again(V4::FAMILY, half);
            self.v6.sweep.again(V6::FAMILY, half);
            self.v4.expect_mappings(&self.context);
            self.v6.expect_mappings(&self.context);
        }
        newer
    }

    /// The published state the engine works by.
    pub fn snapshot(&self) -> &Current {
        &self.context.snapshot
    }

    /// Flows the worker owns.
    pub fn flows(&self) -> u64 {
        self.v4.flows + self.v6.flows
    }

    /// Endpoint-independent mappings the worker holds.
    pub fn mappings(&self) -> usize {
        self.v4.mappings.len() + self.v6.mappings.len()
    }

    /// Slots of the IPv4 flow table.
    pub fn capacity(&self) -> u32 {
        self.v4.table.capacity()
    }

    /// Takes a batch of received frames through; leaves `batch` empty.
    pub fn process<B: Buffer>(
        &mut self,
        batch: &mut Vec<Received<B>>,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        self.context.lane.add(Counter::UserRx, batch.len() as u64);
        self.context.handed_off = false;
        self.run(batch, now, out);
    }

    /// As [`Self::process`], for frames that another worker handed off, of which `lost` more
    /// found no frame here.
    pub fn process_handed_off<B: Buffer>(
        &mut self,
        batch: &mut Vec<Received<B>>,
        lost: usize,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        self.context.lane.add(Counter::UserHandoffIn, (batch.len() + lost) as u64);
        self.context.lane.add(Counter::DropNoFrame, lost as u64);
        self.context.handed_off = true;
        self.run(batch, now, out);
    }

    fn run<B: Buffer>(&mut self, batch: &mut Vec<Received<B>>, now: u32, out: &mut impl Output<B>) {
        self.refresh();
        self.context.now = now;
        // XDP hands over no others while IPv6 is the kernel's.
        let has_ipv6 = self.context.snapshot.half.serves_ipv6();
        let others = if has_ipv6 { split(batch) } else { batch.len() };
        self.v4.process(&mut self.context, batch, others, out);
        self.v6.process(&mut self.context, batch, batch.len(), out);
    }

    /// Drops the fragments that came in by these devices and wait for their first. Call before such a
    /// device goes, and with all before the worker ends.
    pub fn drop_waiting(&mut self, mut by: impl FnMut(u8) -> bool) {
        self.v4.drop_waiting(&self.context, &mut by);
        self.v6.drop_waiting(&self.context, &mut by);
    }

    /// Looks at `slots` slots of each table from where the last call stopped: ends flows that were
    /// idle too long, lets those go that may leave a draining uplink or come home, and learns who
    /// has heavy ones. And drops fragments whose first did not come in time, and lists allocations,
    /// where the log is to have that. Call once a tick.
    pub fn age<B: Buffer>(&mut self, slots: u32, now: u32, out: &mut impl Output<B>) {
        self.context.now = now;
        self.list_allocations();
        self.v4.age(&mut self.context, slots, out);
        self.v6.age(&mut self.context, slots, out);
    }

    /// Looks whether uplinks went down, and ends connections of those that did, a slice of each
    /// table at a time. Says whether there is more to do now.
    pub fn sweep<B: Buffer>(&mut self, out: &mut impl Output<B>) -> bool {
        let more = self.v4.sweep(&self.context, out);
        self.v6.sweep(&self.context, out) || more
    }

    /// Decides about the claims and the hosts that wait, and finds hosts that uplinks ask for: `ask`
    /// says who has an address of the network behind the interface with this index, or of one reached
    /// by a router there. Call once a tick.
    pub fn settle_claims(&mut self, mut ask: impl FnMut(u32, IpAddr) -> Owner) {
        self.context.learn_unknown_hosts(&mut ask);
        self.context.find_inside_hosts(&mut ask);
        self.context.search_asked_hosts(&mut ask);
        self.v4.settle_claims(&self.context, &mut ask);
        self.v6.settle_claims(&self.context, &mut ask);
    }

    /// Finds out about hosts that began flows, or are asked for, and were not known: `ask` says who has
    /// an address of the network behind the interface with this index, and finds out nothing for it. Call
    /// once a tick.
    pub fn ask_about_hosts(&mut self, mut ask: impl FnMut(u32, IpAddr) -> Owner) {
        self.context.ask_about_hosts(&mut ask);
        self.context.ask_about_asked_hosts(&mut ask);
    }

    /// Judges the new flows of late; `now_ms` is CLOCK_MONOTONIC. Call a few times a second.
    pub fn judge(&mut self, now_ms: u64) {
        self.v4.observer.judge(&self.v4.table, now_ms);
        self.v6.observer.judge(&self.v6.table, now_ms);
    }

    /// Takes over the flows that an earlier process left in the tables: those whose owner this
    /// worker would be. Ends the ones that are not whole. Call once, before the first packet.
    pub fn adopt(&mut self) -> u64 {
        self.refresh();
        let Self { context: cx, v4, v6 } = self;
        v4.adopt(cx) + v6.adopt(cx)
    }
}

/// Puts frames of IPv6 behind all others, each in their order; how many others there are.
fn split<B: Buffer>(batch: &mut [Received<B>]) -> usize {
    let mut others = 0;
    for at in 0..batch.len() {
        let frame = ethernet::Frame::new_unchecked(batch[at].frame.data());
        if frame.ethertype() != ethernet::IPV6 {
            if others != at {
                batch[others..=at].rotate_right(1);
            }
            others += 1;
        }
    }
    others
}
