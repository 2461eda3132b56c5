//! Weir under traffic, and each kind of change.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_api::Request;
use weir_kit::moments::Notice;
use weir_kit::traffic::Size;
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{process, wait};
use weir_layout::control::{PathId, path_state};
use weir_shm::control::ControlRegion;
use weir_traffic::{MODE_WATCH, PORTS, Stream};

use super::busy::Busy;
use super::trial::{Priority, Threads};
use super::{COMMANDS, Trial, spare};
use crate::compare::site::{MAX_ENDPOINTS, Site};
use crate::compare::weir::{Tier, establish, start_with};

/// How long frames are sent in a trial: the set-up of the call, the time before, and what a program
/// takes to start and to make the change on a busy CPU.
pub const TRAFFIC: Duration = Duration::from_millis(400);
/// Most frames of a trial: what the user tier keeps up with when every one of them is new to it.
const MOST_FRAMES: u32 = 40_000;
/// Traffic after an event that is measured, nanoseconds.
pub const ENOUGH: u64 = 50_000_000;
/// Fewest: a first packet is seen to 200 µs.
const LEAST_FRAMES: u32 = 2000;
/// How long a cut uplink must be well before it is used again, milliseconds.
const HOLD_DOWN_MS: u32 = 100;
/// The uplink that established flows leave by until it is taken out.
pub const OLD: usize = 0;
/// The one that takes over.
pub const NEW: usize = 1;

/// Weir with established flows, all by one of two uplinks.
pub struct Field {
    pub weir: Weir,
    pub site: Site,
    pub busy: Option<Busy>,
    /// Frames of a trial.
    pub frames: u32,
    /// The established flows, and the next of them: none has moved.
    established: Stream,
    next: u32,
    /// New flows, and the next of them: none was sent before.
    new: Stream,
    next_new: u32,
}

impl Field {
    pub fn prepare(flows: u32, rounds: u32) -> Result<Self> {
        let commands = rounds.min(COMMANDS);
        let trials = 2 * (rounds + spare(rounds)) + commands + spare(commands);
        let frames = (flows / trials).min(MOST_FRAMES);
        let least = trials * LEAST_FRAMES;
        ensure!(frames >= LEAST_FRAMES, "{trials} trials need {least} flows or more");
        let new = (rounds + spare(rounds)) * frames;
        let mut site = Site::build(flows)?;
        site.pair_flows();
        let room = flows.checked_add(new).context("too many flows")?;
        let weir = start_with(&mut site, Tier::Kernel, room, HOLD_DOWN_MS)?;
        weir.weight(UPLINKS[NEW], 0)?;
        establish(&mut site, &weir)?;
        weir.weight(UPLINKS[NEW], 1)?;
        let established = watched(site.load(Size::Fixed(64)), frames);
        // An endpoint with a mapping stays with its uplink (RFC 4787 REQ-1): these have none.
        let used = established.endpoints.div_ceil(PORTS);
        let most = MAX_ENDPOINTS - used * PORTS;
        ensure!(new <= most, "fewer flows or rounds: there are {most} endpoints for new flows");
        let new = Stream {
            source: established.source + used,
            flows: new,
            endpoints: new,
            stride: 1,
            ..established
        };
        Ok(Self { weir, site, busy: None, frames, established, next: 0, new, next_new: 0 })
    }

    /// Has flows sent that leave by the old uplink.
    fn send_established(&mut self) -> Result<()> {
        self.site.traffic.set_stream_from(&self.established, self.next)?;
        let walked = u64::from(self.frames) * u64::from(self.established.stride);
        self.next = ((u64::from(self.next) + walked) % u64::from(self.established.flows)) as u32;
        Ok(())
    }

    /// Takes out an uplink under traffic of flows that leave by it; then it returns.
    pub fn flip(&mut self, by_command: bool) -> Result<Option<Trial>> {
        self.send_established()?;
        let name = UPLINKS[OLD];
        let change = |weir: &Weir| match by_command {
            true => process::output(&mut weir.cli(&["down", name])?).map(drop),
            false => weir.request(&Request::Down { uplink: name.into() }).map(drop),
        };
        let both = if by_command { Priority::Ordinary } else { Priority::RealTime };
        let threads = Threads { requester: both, watcher: both };
        let trial = self.trial(change, state, threads, None)?;
        self.weir.request(&Request::Up { uplink: name.into() })?;
        Ok(trial)
    }

    /// Cuts its cable; then it is joined again.
    pub fn cut(&mut self) -> Result<Option<Trial>> {
        self.send_established()?;
        let provider = self.site.topology.providers[OLD].clone();
        let notice = Notice::of_carrier_loss(&self.site.topology.gateway, &provider.interface())?;
        let cut = provider.cutter()?;
        let threads = Threads { requester: Priority::Ordinary, watcher: Priority::RealTime };
        let trial = self.trial(|_| cut(), state, threads, Some(&notice))?;
        provider.set_carrier(true)?;
        wait::until("the uplink to be well again", wait::BOUND, || {
            Ok((self.weir.states()?[OLD] == path_state::USABLE).then_some(()))
        })?;
        Ok(trial)
    }

    /// Gives an uplink without one a weight, while new flows arrive.
    pub fn weigh(&mut self) -> Result<Option<Trial>> {
        self.weir.weight(UPLINKS[NEW], 0)?;
        self.site.traffic.set_stream_from(&self.new, self.next_new)?;
        self.next_new += self.frames;
        let change = |weir: &Weir| weir.weight(UPLINKS[NEW], 1).map(drop);
        let threads = Threads { requester: Priority::RealTime, watcher: Priority::Ordinary };
        self.trial(change, ControlRegion::epoch, threads, None)
    }
}

/// The word of the uplink that is taken out.
fn state(control: &ControlRegion) -> u64 {
    u64::from(control.path_state(PathId::v4(OLD as u8)))
}

fn watched(load: Stream, frames: u32) -> Stream {
    let pace = TRAFFIC / frames;
    Stream { mode: MODE_WATCH, interval_ns: pace.as_nanos() as u64, ..load }
}
