//! A worker's devices, as its engine's output: by its sockets, or by the process's
//! [`Transmitter`] where that serves the device and sockets copy.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use weir_wire::layout::MAX_DEVICES;
use weir_xsk::{Frame, Socket, SocketConfig, Umem};

use crate::engine::BATCH;
use crate::handover::Handover;
use crate::packet::Output;
use crate::transmitter::Transmitter;
use crate::worker::{DevicePlan, Plan, Shared};

const NO_SOCKET: u16 = u16::MAX;

/// The worker's sockets, and what else it sends by.
pub struct Ports<'u> {
    umem: &'u Umem,
    /// Sockets, and the device that each is of.
    pub sockets: Vec<(u8, Socket<'u>)>,
    /// First socket of each device, by device index; [`NO_SOCKET`]: it has none.
    first: [u16; MAX_DEVICES],
    handover: &'u Handover,
    transmitter: &'u OnceLock<Transmitter>,
    /// Devices whose sockets copy, a bit for each index.
    copying: u64,
    /// Frames for the transmitter, which go with the next [`Self::flush`].
    outbox: Vec<(u8, Frame<'u>)>,
    /// Packets of the gateway's own wait in the sockets' rings, and are older than the outbox: a
    /// reset that is overtaken by data has a sequence number of the past, and is ignored.
    owed: bool,
    by_transmitter: [Sent; MAX_DEVICES],
}

/// Frames of a device that were given to the transmitter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// It took them.
    pub done: u64,
    /// It refused them, and so did the device's socket.
    pub lost: u64,
}

impl<'u> Ports<'u> {
    /// Binds the sockets of a plan.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    pub fn bind(plan: &Plan, umem: &'u Umem, shared: &'u Shared) -> Result<Self> {
        let mut sockets: Vec<(u8, Socket<'u>)> = Vec::new();
        let mut copying = 0;
        for device in &plan.devices {
            for &queue in &device.queues {
                let config = SocketConfig {
                    ifindex: device.ifindex,
                    queue,
                    ring_size: plan.ring_size,
                    mode: plan.bind,
                };
                let first = sockets.first().map(|(_, socket)| socket);
                let socket = Socket::bind(umem, config, first)
                    .with_context(|| format!("interface {}", device.name))?;
                if !socket.zero_copy() {
                    copying |= 1 << device.device;
                }
                sockets.push((device.device, socket));
            }
        }
        Ok(Self {
            umem,
            sockets,
            first: first_sockets(&plan.devices),
            handover: &shared.handover,
            transmitter: &shared.transmitter,
            copying,
            outbox: Vec::with_capacity(BATCH),
            owed: false,
            by_transmitter: [Sent::default(); MAX_DEVICES],
        })
    }

    /// Sends what is queued, takes back what was sent, and gives free frames to receive into.
    pub fn flush(&mut self) {
        self.flush_outbox();
        for (_, socket) in &mut self.sockets {
            // An error other than a busy or absent device is the device's end; the main thread
            // learns of that from the control page and starts the workers anew.
            let _ = socket.flush();
            socket.complete();
            socket.refill();
        }
        self.owed = false;
    }

    /// What the transmitter refuses goes by the sockets.
    fn flush_outbox(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        if std::mem::take(&mut self.owed) {
            self.sockets.iter_mut().for_each(|(_, socket)| drop(socket.flush()));
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        for (device, frame) in outbox.drain(..) {
            let transmitter = self.transmitter.get();
            let done = transmitter.is_some_and(|by| by.send(device, frame.data()));
            let lost = !done && self.by_socket(device, frame).is_err();
            let sent = &mut self.by_transmitter[usize::from(device)];
            sent.done += u64::from(done);
            sent.lost += u64::from(lost);
        }
        self.outbox = outbox;
    }

    fn by_socket(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        let index = self.first.get(usize::from(device)).copied().unwrap_or(NO_SOCKET);
        let Some((_, socket)) = self.sockets.get_mut(usize::from(index)) else { return Err(frame) };
        let Err(frame) = socket.transmit(frame) else { return Ok(()) };
        // Full: let the kernel send, then try once more.
        let _ = socket.flush();
        socket.complete();
        socket.transmit(frame)
    }

    /// Frames that wait for the transmitter.
    pub fn waiting(&self) -> u32 {
        self.outbox.len() as u32
    }

    /// What went to the transmitter, by device index.
    pub fn by_transmitter(&self) -> &[Sent; MAX_DEVICES] {
        &self.by_transmitter
    }
}

impl<'u> Output<Frame<'u>> for Ports<'u> {
    #[inline]
    fn transmit(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        let copies = self.copying.checked_shr(device.into()).is_some_and(|set| set & 1 != 0);
        if !copies || !self.transmitter.get().is_some_and(|by| by.serves(device)) {
            return self.by_socket(device, frame);
        }
        self.outbox.push((device, frame));
        if self.outbox.len() == BATCH {
            self.flush_outbox();
        }
        Ok(())
    }

    fn originate(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        self.flush_outbox();
        self.owed = true;
        self.by_socket(device, frame)
    }

    fn allocate(&mut self) -> Option<Frame<'u>> {
        self.umem.alloc()
    }

    fn hand_over(&mut self, worker: u8, device: u8, frame: &[u8]) -> bool {
        self.handover.give(worker, device, frame)
    }
}

/// Number of each device's first socket, in the order of [`Ports::bind`].
fn first_sockets(devices: &[DevicePlan]) -> [u16; MAX_DEVICES] {
    let mut first = [NO_SOCKET; MAX_DEVICES];
    let mut next = 0;
    for device in devices.iter().filter(|device| !device.queues.is_empty()) {
        first[usize::from(device.device)] = next;
        next += device.queues.len() as u16;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_sends_by_its_own_socket_however_many_there_are() {
        let plan = |device: u8, queues: u32| DevicePlan {
            device,
            ifindex: 1,
            name: String::new(),
            queues: (0..queues).collect(),
            mtu: 1500,
            xdp_transmit: true,
        };
        let first = first_sockets(&[plan(0, 64), plan(1, 191), plan(2, 0), plan(3, 1), plan(4, 1)]);
        assert_eq!(first[..5], [0, 64, NO_SOCKET, 255, 256]);
    }
}
