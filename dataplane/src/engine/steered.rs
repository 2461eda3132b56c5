//! Why a packet takes its uplink: for those who run an engine on a copy of the regions and ask.
//!
//! What is asked is what the packet's path asks, by the same functions; here each step is kept.

use weir_layout::control::RuleAction;
use weir_shm::flows::Stored;
use weir_wire::ethernet;

use super::Engine;
use super::batch::Work;
use super::context::Context;
use super::sessions::Sessions;
use super::slow_path::traffic_of;
use crate::steering::{self, Refusal, Ruling, Step};

/// How a packet from a LAN is steered, if it begins a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// What the rules say; where the family needs no flows they are not asked.
    pub ruling: Ruling,
    /// The uplink of its endpoint's mapping, which it takes; then nothing else is asked.
    pub mapping: Option<u8>,
    /// What its uplink is chosen by.
    pub steps: Vec<Step>,
    /// That uplink.
    pub uplink: Result<u8, Refusal>,
}

impl Engine {
    /// How a frame that came in by a device would be steered if it began a flow now; `None`: it
    /// comes from no LAN, or no rule is asked about it. Changes nothing.
    pub fn steered(&mut self, frame: &[u8], device: u8, now: u32) -> Option<Steered> {
        self.refresh();
        self.context.now = now;
        match ethernet::Frame::new_unchecked(frame).ethertype() {
            ethernet::IPV6 => self.v6.steered(&self.context, frame, device),
            _ => self.v4.steered(&self.context, frame, device),
        }
    }
}

impl<F: Stored> Sessions<F> {
    fn steered(&self, cx: &Context, frame: &[u8], device: u8) -> Option<Steered> {
        let work = Work::<F>::read(cx, frame, device).ok()?;
        let half = &cx.snapshot.half;
        let is_lan = half.ports.get(usize::from(work.port)).is_some_and(|port| port.is_lan());
        if !is_lan || !half.is_behind(work.port, work.parsed.src) {
            return None;
        }
        let traffic = traffic_of(&work);
        let (mut steps, mut mapping) = (Vec::new(), None);
        let (ruling, uplink) = match half.stateless(F::FAMILY) {
            Some(stateless) => {
                let policy = stateless.policy;
                let ruling = Ruling { rule: None, action: RuleAction::Policy, policy };
                let (region, key) = (&cx.control, cx.key);
                let uplink =
                    steering::traced_uplink(half, region, key, policy, &traffic, &mut steps);
                (ruling, uplink)
            }
            None => {
                let ruling = steering::ruling(half, &cx.control, &traffic);
                let policy = ruling.policy;
                let endpoint = self.endpoint(policy, &traffic);
                let known = self.mapping_of(&endpoint);
                mapping = known.filter(|mapping| self.may_use(cx, &endpoint.of, mapping, &traffic));
                let uplink = match &mapping {
                    Some(mapping) => Ok(mapping.uplink),
                    None => self.choose_traced(cx, policy, &traffic, &mut steps),
                };
                (ruling, uplink)
            }
        };
        Some(Steered { ruling, mapping: mapping.map(|mapping| mapping.uplink), steps, uplink })
    }
}
