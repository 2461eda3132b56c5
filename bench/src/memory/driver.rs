//! Makes flows and sends their packets through an engine, batch by batch.

use anyhow::{Result, ensure};
use serde::Serialize;
use weir_dataplane::engine::BATCH;
use weir_dataplane::established;
use weir_dataplane::packet::Received;
use weir_layout::Family;
use weir_layout::counters::Counter;
use weir_shm::flows::{FlowTable, Stored};
use weir_wire::key::FlowKey;
use weir_wire::tcp::flag;
use weir_xsk::{Frame, Umem};

use crate::memory::gateway::Gateway;
use crate::memory::meter::{Meter, Unmeasured};
use crate::memory::ring::{Capture, Ring};
use crate::memory::traffic::{External, Flow, Packet, Protocol, Template};

/// The engine's clock, milliseconds, while flows are made and used.
pub const NOW: u32 = 1;
const TTL: u8 = 64;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the LAN to the uplinks.
    Out,
    /// From the uplinks to the LAN.
    Back,
}

/// A gateway, its frames, and the flows it holds.
pub struct Driver<'u> {
    /// The gateway.
    pub gateway: Gateway,
    protocol: Protocol,
    ring: Ring<'u>,
    batch: Vec<Received<Frame<'u>>>,
    externals: Vec<External>,
}

impl<'u> Driver<'u> {
    /// A driver of a gateway without flows, with room for `flows`.
    pub fn new(gateway: Gateway, umem: &'u Umem, protocol: Protocol, flows: usize) -> Self {
        let (batch, externals) = (Vec::with_capacity(BATCH), Vec::with_capacity(flows));
        Self { gateway, protocol, ring: Ring::new(umem), batch, externals }
    }

    /// Flows made so far.
    pub fn flows(&self) -> usize {
        self.externals.len()
    }

    /// Makes the next flows: a packet from each host, measured by `first`; for TCP the rest of the
    /// handshake, measured by `rest`. Says how many of them the gateway accepted; after a refusal
    /// the driver is good for nothing but the gateway's figures.
    ///
    /// # Errors
    /// When there are not that many flows, or a handshake fails.
    pub fn establish(
        &mut self,
        count: usize,
        first: &mut impl Meter,
        rest: &mut impl Meter,
    ) -> Result<usize> {
        let before = self.externals.len();
        let flags = [flag::SYN, flag::SYN | flag::ACK, flag::ACK];
        let family = self.gateway.translation.family();
        let [open, accept, confirm] =
            flags.map(|flags| Template::new(family, self.protocol, TTL, flags));
        let mut next = before;
        while next < before + count {
            let flows: Vec<Flow> = (next..(next + BATCH).min(before + count))
                .map(Flow::number)
                .collect::<Result<_>>()?;
            for flow in &flows {
                let packet = open.out(flow);
                let frame = &open.frame(&packet)[..open.frame_len()];
                self.ring.receive(&mut self.batch, packet.device, frame);
            }
            let mut out = Capture { ring: &mut self.ring, seen: &mut self.externals };
            let (engine, batch) = (&mut self.gateway.engine, &mut self.batch);
            first.during(|| engine.process(batch, NOW, &mut out));
            next += flows.len();
            if self.externals.len() < next {
                self.ring.recycle();
                break;
            }
            if self.protocol == Protocol::Tcp {
                let externals = &self.externals[next - flows.len()..];
                let answers: Vec<Packet> =
                    flows.iter().zip(externals).map(|(f, e)| accept.back(f, e)).collect();
                let thanks: Vec<Packet> = flows.iter().map(|f| confirm.out(f)).collect();
                let sent = self.gateway.count(Counter::UserTx);
                self.send(&accept, &answers, rest);
                self.send(&confirm, &thanks, rest);
                let sent = self.gateway.count(Counter::UserTx) - sent;
                ensure!(sent == 2 * flows.len() as u64, "a handshake was not forwarded");
            }
        }
        Ok(self.externals.len() - before)
    }

    /// As [`Self::establish`], unmeasured, and in both directions, so that the flows are as those
    /// of a conversation.
    ///
    /// # Errors
    /// When the gateway refuses one.
    pub fn converse(&mut self, count: usize) -> Result<()> {
        let before = self.flows();
        let made = self.establish(count, &mut Unmeasured, &mut Unmeasured)?;
        ensure!(made == count, "the gateway accepted {made} of {count} flows");
        let template = self.template(TTL);
        for direction in [Direction::Back, Direction::Out] {
            let mut packets = Vec::with_capacity(BATCH);
            for start in (before..before + count).step_by(BATCH) {
                let numbers = start..(start + BATCH).min(before + count);
                self.packets(&template, direction, numbers, &mut packets)?;
                let sent = self.gateway.count(Counter::UserTx);
                self.send(&template, &packets, &mut Unmeasured);
                let sent = self.gateway.count(Counter::UserTx) - sent;
                ensure!(sent == packets.len() as u64, "a packet was not forwarded");
            }
        }
        Ok(())
    }

    /// Sends a packet from the host of each of these flows, whose uplink may be down: it moves, or is
    /// answered. Says how many moved.
    ///
    /// # Errors
    /// When there is no such flow.
    pub fn leave(&mut self, flows: &[usize], meter: &mut impl Meter) -> Result<usize> {
        let template = self.template(TTL);
        let mut packets = Vec::new();
        self.packets(&template, Direction::Out, flows.iter().copied(), &mut packets)?;
        let before = self.gateway.count(Counter::FlowsMoved);
        self.send(&template, &packets, meter);
        Ok((self.gateway.count(Counter::FlowsMoved) - before) as usize)
    }

    /// Numbers of the flows that leave by one of these devices.
    pub fn leaving_by(&self, devices: std::ops::RangeInclusive<u8>) -> Vec<usize> {
        let by = |number: &usize| devices.contains(&self.externals[*number].device);
        (0..self.externals.len()).filter(by).collect()
    }

    /// What the packets of the flows have in common, once they are established.
    pub fn template(&self, ttl: u8) -> Template {
        Template::new(self.gateway.translation.family(), self.protocol, ttl, flag::ACK)
    }

    /// Replaces `packets` by one of each of these flows.
    ///
    /// # Errors
    /// When there is no such flow.
    pub fn packets(
        &self,
        template: &Template,
        direction: Direction,
        flows: impl Iterator<Item = usize>,
        packets: &mut Vec<Packet>,
    ) -> Result<()> {
        packets.clear();
        for number in flows {
            let flow = Flow::number(number)?;
            packets.push(match direction {
                Direction::Out => template.out(&flow),
                Direction::Back => template.back(&flow, &self.externals[number]),
            });
        }
        Ok(())
    }

    /// Sends packets through the engine in batches; `meter` measures the engine alone.
    pub fn send(&mut self, template: &Template, packets: &[Packet], meter: &mut impl Meter) {
        for chunk in packets.chunks(BATCH) {
            for packet in chunk {
                let frame = &template.frame(packet)[..template.frame_len()];
                self.ring.receive(&mut self.batch, packet.device, frame);
            }
            let (engine, batch, ring) = (&mut self.gateway.engine, &mut self.batch, &mut self.ring);
            meter.during(|| engine.process(batch, NOW, ring));
            ring.recycle();
        }
    }

    /// Takes packets through the engine's first stages alone: recognising them, and if `find` says
    /// so, finding their flows. Says how many are recognised, or found; `meter` measures that.
    pub fn look(
        &mut self,
        template: &Template,
        packets: &[Packet],
        find: bool,
        meter: &mut impl Meter,
    ) -> usize {
        let mut seen = 0;
        for chunk in packets.chunks(BATCH) {
            for packet in chunk {
                let frame = &template.frame(packet)[..template.frame_len()];
                self.ring.receive(&mut self.batch, packet.device, frame);
            }
            let (batch, regions) = (&self.batch, &self.gateway.regions);
            let key = regions.hash_key;
            seen += match self.gateway.translation.family() {
                Family::V4 => meter.during(|| look(batch, &regions.flows, key, find)),
                Family::V6 => meter.during(|| look(batch, &regions.flows6, key, find)),
            };
            self.batch.clear();
            self.ring.recycle();
        }
        seen
    }
}

fn look<F: Stored>(
    batch: &[Received<Frame<'_>>],
    table: &FlowTable<F>,
    hash_key: [u64; 2],
    find: bool,
) -> usize {
    if !find {
        return batch.iter().filter_map(|r| established::read::<F>(r.frame.data())).count();
    }
    let mut keys = [const { None }; BATCH];
    for (key, received) in keys.iter_mut().zip(batch) {
        *key = established::read::<F>(received.frame.data()).map(|packet| {
            let key = FlowKey::<F>::from_words(packet.key());
            let hash = key.hash(hash_key);
            table.prefetch_tags(hash);
            (hash, key)
        });
    }
    for (hash, _) in keys.iter().flatten() {
        table.prefetch_slot(*hash);
    }
    keys.iter().flatten().filter_map(|(hash, key)| table.find(*hash, key)).count()
}
