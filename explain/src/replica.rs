//! A gateway's regions in memory of their own, with the engines and the XDP program on them.

use std::collections::VecDeque;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use weir_dataplane::engine::{Engine, FLOW_SLOTS6, Owner, Regions};
use weir_dataplane::owner::Owners;
use weir_dataplane::packet::{Buffer, HeapFrame, Output, Received};
use weir_layout::control::ControlHalf;
use weir_layout::counters::Counter;
use weir_shm::adjacencies::Adjacencies;
use weir_shm::allowances::Allowances;
use weir_shm::control::{ControlRegion, Current};
use weir_shm::counters::Counters;
use weir_shm::flows::{FlowTable, Stored};
use weir_shm::map::Access;
use weir_shm::observations::Observations;
use weir_shm::status::Status;
use weir_shm::{Error, Pins};
use weir_wire::entry::Entry;
use weir_wire::family::{V4, V6};
use weir_wire::key::FlowKey;

use crate::xdp::Xdp;

/// Secret of the copy's engines, for what they draw by lot.
const ENTROPY: [u64; 2] = [0x77e1_5eed_0bad_cafe, 0x0123_4567_89ab_cdef];

/// See the crate's text.
#[derive(Debug)]
pub struct Replica {
    pub(crate) regions: Regions,
    pub(crate) half: Box<ControlHalf>,
    engines: Vec<Engine>,
    xdp: Option<Xdp>,
    /// Who has an address inside, by the kernel's tables.
    owners: Option<Owners>,
    /// CLOCK_MONOTONIC, milliseconds, wrapping.
    pub(crate) now: u32,
    wire: Wire,
}

/// What became of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// What left for it, and by which device.
    pub sent: Vec<(u8, Vec<u8>)>,
    /// What the gateway told whom, likewise.
    pub told: Vec<(u8, Vec<u8>)>,
    /// What it was counted as in the end.
    pub counter: Option<Counter>,
    /// The worker that had it last, if one had it.
    pub worker: Option<u8>,
    /// The rule whose hits it counts for.
    pub rule: Option<u8>,
}

/// Where the engines' frames go.
#[derive(Debug, Default)]
struct Wire {
    sent: Vec<(u8, Vec<u8>)>,
    told: Vec<(u8, Vec<u8>)>,
    handed: VecDeque<(u8, u8, Vec<u8>)>,
}

impl Output<HeapFrame> for Wire {
    fn transmit(&mut self, device: u8, frame: HeapFrame) -> Result<(), HeapFrame> {
        self.sent.push((device, frame.data().to_vec()));
        Ok(())
    }

    fn originate(&mut self, device: u8, frame: HeapFrame) -> Result<(), HeapFrame> {
        self.told.push((device, frame.data().to_vec()));
        Ok(())
    }

    fn send_for_another(&mut self, _: u8, _: &[u8]) {}

    fn allocate(&mut self) -> Option<HeapFrame> {
        Some(HeapFrame::new(&[]))
    }

    fn hand_off(&mut self, worker: u8, device: u8, frame: &[u8]) -> bool {
        self.handed.push_back((worker, device, frame.to_vec()));
        true
    }
}

impl Replica {
    /// A copy of the regions of a gateway in this process, which has no XDP program, at `now`.
    ///
    /// # Errors
    /// When there is no memory, or nothing is published.
    pub fn of(live: &Regions, now: u32) -> Result<Self> {
        let copy = Regions {
            control: ControlRegion::anonymous()?,
            flows: FlowTable::anonymous(live.flows.capacity())?,
            flows6: FlowTable::anonymous(live.flows6.capacity())?,
            adjacencies: Adjacencies::anonymous(live.hash_key)?,
            allowances: Allowances::anonymous()?,
            counters: Counters::anonymous()?,
            observations: Observations::anonymous()?,
            nat_log: None,
            host_flows: Default::default(),
            agreements: Default::default(),
            hash_key: live.hash_key,
        };
        copy_into(live, &copy)?;
        Self::on(copy, now)
    }

    /// The same of the gateway that is pinned in a directory.
    ///
    /// # Errors
    /// As above, or when something is missing there: what to start.
    pub fn of_pinned(live: &Pins, now: u32) -> Result<Self> {
        Self::of(&pinned_regions(live)?, now)
    }

    /// The same with its XDP program. For that it pins maps beside the directory, for a moment.
    ///
    /// # Errors
    /// As above, or when the kernel refuses.
    pub fn pinned(live: &Pins, now: u32) -> Result<Self> {
        let of = pinned_regions(live)?;
        let hash_key = of.hash_key;
        let own = OwnPins::beside(live)?;
        let pins = &own.0;
        let copy = Regions {
            control: ControlRegion::open(pins, Access::Write)?,
            flows: FlowTable::open(pins, of.flows.capacity())?,
            flows6: FlowTable::open(pins, of.flows6.capacity())?,
            adjacencies: Adjacencies::open(pins, Access::Write, hash_key)?,
            allowances: Allowances::open(pins)?,
            counters: Counters::open(pins, Access::Write)?,
            ..Regions::anonymous(FLOW_SLOTS6, hash_key)?
        };
        copy_into(&of, &copy)?;
        let mut replica = Self::on(copy, now)?;
        replica.xdp = Some(Xdp::load(live, pins, &replica.regions, &replica.half)?);
        replica.owners = Some(Owners::new().context("no socket for questions to the kernel")?);
        replica.settle();
        Ok(replica)
    }

    fn on(regions: Regions, now: u32) -> Result<Self> {
        let mut current = Current::default();
        if !current.refresh(&regions.control) {
            bail!("nothing is published yet: start weir-control");
        }
        let (half, engines, wire) = (current.half, Vec::new(), Wire::default());
        let mut replica = Self { regions, half, engines, xdp: None, owners: None, now, wire };
        replica.start_workers();
        Ok(replica)
    }

    /// Starts as many workers as are published, in place of those that there are. They adopt the
    /// flows.
    pub(crate) fn start_workers(&mut self) {
        let workers = self.half.workers.max(1);
        let start = |id| Engine::new(id, workers, &self.regions, ENTROPY);
        self.engines = (0..workers).map(start).collect();
        for engine in &mut self.engines {
            engine.adopt();
        }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.engines.len()
    }

    /// The engines, to be asked.
    pub(crate) fn engines(&mut self) -> &mut [Engine] {
        &mut self.engines
    }

    /// Does the XDP program run here too?
    pub const fn has_xdp(&self) -> bool {
        self.xdp.is_some()
    }

    /// Takes a frame through that comes in by a device: XDP, if it is there, and the workers, of
    /// which the first gets it.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn send(&mut self, device: u8, frame: &[u8]) -> Result<Ran> {
        let rules = self.rule_hits();
        let before = self.counts();
        let mut given = frame.to_vec();
        if let Some(xdp) = &mut self.xdp {
            let of = &self.half.devices[usize::from(device) % self.half.devices.len()];
            given = xdp
                .run(of.ifindex, frame)
                .with_context(|| format!("as if a frame came in by {}", of.name.as_str()))?;
            let counter = moved(&before, &self.counts(), is_of_xdp);
            if counter != Some(Counter::XdpToUser) {
                let sent = match counter {
                    Some(Counter::XdpForwarded) => vec![(self.device_of(&given), given)],
                    _ => Vec::new(),
                };
                return Ok(Ran { sent, counter, ..Ran::default() });
            }
        }
        let worker = self.process(device, &given);
        let Wire { sent, told, .. } = std::mem::take(&mut self.wire);
        let drop =
            moved(&before, &self.counts(), |counter| counter.is_drop() && !counter.is_xdp_drop());
        let counter = drop.or((!sent.is_empty()).then_some(Counter::UserTx));
        let hits = self.rule_hits();
        let rule = hits.iter().zip(&rules).position(|(now, then)| now != then);
        let rule = rule.and_then(|rule| u8::try_from(rule).ok());
        Ok(Ran { sent, told, counter, worker: Some(worker), rule })
    }

    /// A frame at the first worker, and wherever it is handed; the worker that had it last.
    fn process(&mut self, device: u8, frame: &[u8]) -> u8 {
        let received =
            |frame: &[u8], device| vec![Received { frame: HeapFrame::new(frame), device }];
        let Self { engines, wire, now, .. } = self;
        let mut last = 0;
        if let Some(engine) = engines.first_mut() {
            engine.process(&mut received(frame, device), *now, wire);
        }
        // No frame goes round: each worker hands on to the one that decides.
        for _ in 0..engines.len() {
            let Some((worker, device, frame)) = wire.handed.pop_front() else { break };
            last = worker;
            if let Some(engine) = engines.get_mut(usize::from(worker)) {
                engine.process_handed_off(&mut received(&frame, device), 0, *now, wire);
            }
        }
        last
    }

    /// Lets all workers sweep to the end.
    pub(crate) fn sweep(&mut self) {
        let Self { engines, wire, .. } = self;
        for engine in engines {
            engine.refresh();
            while engine.sweep(wire) {
                *wire = Wire::default();
            }
        }
        self.wire = Wire::default();
    }

    /// Lets all workers find the hosts that somebody outside asks for, as far as the kernel knows
    /// them.
    pub(crate) fn settle(&mut self) {
        let Self { engines, owners: Some(owners), .. } = self else { return };
        for engine in engines {
            engine.settle_claims(|interface, address| owners.told(interface, address));
        }
    }

    /// Who has an address behind an interface, if the kernel knows.
    pub(crate) fn owner(&self, interface: u32, address: IpAddr) -> Option<[u8; 6]> {
        match self.owners.as_ref()?.told(interface, address) {
            Owner::At(mac) => Some(mac),
            _ => None,
        }
    }

    /// The direction of a flow that a key names, with its slot.
    pub(crate) fn find<F: Stored>(
        &self,
        table: &FlowTable<F>,
        key: &FlowKey<F>,
    ) -> Option<(u32, Entry<F>)> {
        let slot = table.find(key.hash(self.regions.hash_key), key)?;
        Some((slot, table.slot(slot).read()?))
    }

    /// The device that a frame leaves by, which XDP has forwarded: its source is its port's
    /// address.
    fn device_of(&self, frame: &[u8]) -> u8 {
        let from = weir_wire::ethernet::Frame::new_unchecked(frame);
        let ports = self.half.ports.iter().filter(|port| port.role().is_some());
        let mut by = ports
            .filter(|port| port.mac.bytes() == from.src() && port.vlan == from.vlan().unwrap_or(0));
        by.next().map_or(weir_layout::NONE, |port| port.device)
    }

    fn counts(&self) -> Vec<(Counter, u64)> {
        self.regions.counters.all()
    }

    fn rule_hits(&self) -> Vec<u64> {
        self.regions.counters.rule_hits(self.half.rules().len(), self.half.workers.max(1))
    }
}

/// The regions of a gateway that is pinned in a directory, to be read.
fn pinned_regions(live: &Pins) -> Result<Regions> {
    let control = ControlRegion::open(live, Access::Read)?;
    let hash_key = Status::open(live, Access::Read)?.hash_key();
    if hash_key == [0; 2] {
        bail!("the dataplane never ran: start weir-dataplane");
    }
    Ok(Regions {
        control,
        flows: FlowTable::read_only(live)?,
        flows6: opened_or(FlowTable::read_only(live))?,
        adjacencies: Adjacencies::open(live, Access::Read, hash_key)?,
        hash_key,
        ..Regions::anonymous(FLOW_SLOTS6, hash_key)?
    })
}

/// The table of IPv6, of one page where the dataplane has made none.
fn opened_or(table: Result<FlowTable<V6>, Error>) -> Result<FlowTable<V6>> {
    match table {
        Err(Error::Missing { .. }) => Ok(FlowTable::anonymous(FLOW_SLOTS6)?),
        table => Ok(table?),
    }
}

/// Copies what packets are decided by.
fn copy_into(live: &Regions, copy: &Regions) -> Result<()> {
    if live.control.epoch() == 0 {
        bail!("nothing is published yet: start weir-control");
    }
    if !live.control.copy_to(&copy.control) {
        bail!("weir-control publishes faster than this can read: try again");
    }
    live.adjacencies.copy_to(&copy.adjacencies);
    live.flows.copy_to(&copy.flows);
    live.flows6.copy_to(&copy.flows6);
    Ok(())
}

fn is_of_xdp(counter: Counter) -> bool {
    let begins = |name: &str| counter.label().starts_with(name);
    begins("xdp.") && counter != Counter::XdpRx
}

/// The counter that moved, of those that are asked about.
fn moved(
    before: &[(Counter, u64)],
    after: &[(Counter, u64)],
    which: impl Fn(Counter) -> bool,
) -> Option<Counter> {
    let mut both = before.iter().zip(after).filter(|((counter, _), _)| which(*counter));
    both.find(|((_, then), (_, now))| then != now).map(|((counter, _), _)| *counter)
}

/// A directory of pins that goes with this.
struct OwnPins(Pins);

impl OwnPins {
    fn beside(live: &Pins) -> Result<Self> {
        let directory = live.directory();
        let name = directory.file_name().map_or("weir".into(), |name| name.to_string_lossy());
        let own = format!("{name}-explain-{}", std::process::id());
        let pins = Pins::create(directory.with_file_name(own))
            .context("no place for the copy's maps, which takes root")?;
        Ok(Self(pins))
    }
}

impl Drop for OwnPins {
    fn drop(&mut self) {
        // What cannot be removed is empty of meaning, and says whose it was by its name.
        let _ = self.0.remove();
    }
}

/// The table of a family.
pub(crate) trait Tables: Stored {
    /// Of these regions.
    fn table(regions: &Regions) -> &FlowTable<Self>;
}

impl Tables for V4 {
    fn table(regions: &Regions) -> &FlowTable<Self> {
        &regions.flows
    }
}

impl Tables for V6 {
    fn table(regions: &Regions) -> &FlowTable<Self> {
        &regions.flows6
    }
}
