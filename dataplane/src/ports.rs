//! A worker's devices, as its engine's output: by its sockets, or by the process's
//! [`Transmitter`] where that serves the device and sockets copy, or by a worker that has a socket.

use std::sync::OnceLock;

use weir_layout::set::IndexSet;
use weir_layout::status::{DeviceStatus, SocketMode};
use weir_layout::{MAX_DEVICES, NONE};
use weir_xsk::{Binder, Frame, Lease, Socket, SocketConfig, Umem};
use zerocopy::FromZeros;

use crate::command::{Command, Done, Refused, TransmitMode};
use crate::engine::BATCH;
use crate::handoff::{Handoff, Task};
use crate::memory::{Held, PacketMemory};
use crate::packet::Output;
use crate::transmitter::Transmitter;
use crate::worker::Shared;

const NO_SOCKET: u16 = u16::MAX;

/// The worker's sockets, and what else it sends by.
pub struct Ports<'u> {
    memory: &'u PacketMemory,
    /// Sockets, and the device that each is of; those of a device together.
    pub sockets: Vec<(u8, Socket<'u>)>,
    /// First socket of each device that may be sent by, by device index; [`NO_SOCKET`]: it has none.
    first: [u16; MAX_DEVICES],
    /// Devices that may be sent by.
    usable: IndexSet,
    /// Who sends by a device that the worker has no socket of, by device index; [`NONE`]: nobody.
    senders: [u8; MAX_DEVICES],
    /// What sockets held that are closed, and the device of each.
    leases: Vec<(u8, Lease<'u>)>,
    /// Figures of sockets that are closed.
    retired: [DeviceStatus; MAX_DEVICES],
    handoff: &'u Handoff,
    transmitter: &'u OnceLock<Transmitter>,
    /// Devices whose sockets copy.
    copying: IndexSet,
    /// Frames for the transmitter, which go with the next [`Self::flush`].
    outbox: Vec<(u8, Frame<'u>)>,
    /// Packets of the gateway's own wait in the sockets' rings, and are older than the outbox: a
    /// reset that is overtaken by data has a sequence number of the past, and is ignored.
    owed: bool,
    by_transmitter: [Sent; MAX_DEVICES],
}

/// Frames of a device that went another way than by a socket of the worker's.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// The transmitter took them.
    done: u64,
    /// Nobody did.
    lost: u64,
}

impl<'u> Ports<'u> {
    /// Without a device yet.
    pub fn new(memory: &'u PacketMemory, shared: &'u Shared) -> Self {
        Self {
            memory,
            sockets: Vec::new(),
            first: [NO_SOCKET; MAX_DEVICES],
            usable: IndexSet::EMPTY,
            senders: [NONE; MAX_DEVICES],
            leases: Vec::new(),
            retired: [DeviceStatus::new_zeroed(); MAX_DEVICES],
            handoff: &shared.handoff,
            transmitter: &shared.transmitter,
            copying: IndexSet::EMPTY,
            outbox: Vec::with_capacity(BATCH),
            owed: false,
            by_transmitter: [Sent::default(); MAX_DEVICES],
        }
    }

    /// Does what the main thread says; what to answer, if it waits for that. Before a device is
    /// closed, what its sockets received is to be taken.
    pub fn obey(&mut self, command: Command) -> Option<(u8, Done)> {
        match command {
            Command::Open { device, frame_size, sockets } => {
                let opened = self.open(device, frame_size, &sockets);
                return Some((device, Done::Opened(opened)));
            }
            Command::Use { device, mode } => self.set_transmit_mode(device, mode),
            Command::Close { device } => {
                self.close(device);
                return Some((device, Done::Closed));
            }
            Command::Release { device, reclaim } => {
                for (_, lease) in self.leases.extract_if(.., |(of, _)| *of == device) {
                    if reclaim {
                        lease.reclaim();
                    }
                }
            }
        }
        None
    }

    fn open(
        &mut self,
        device: u8,
        frame_size: u32,
        configs: &[SocketConfig],
    ) -> Result<Vec<Binder>, Refused> {
        let mut binders = Vec::new();
        let mut rest = configs;
        while let Some(SocketConfig { ring_size, .. }) = rest.first() {
            let (umem, count) =
                self.memory.room(frame_size, rest.len(), 2 * ring_size, |umem| self.held(umem))?;
            let (here, others) = rest.split_at(count);
            for config in here {
                let (socket, binder) = Socket::open(umem, *config)?;
                self.sockets.push((device, socket));
                binders.push(binder);
            }
            rest = others;
        }
        Ok(binders)
    }

    fn held(&self, umem: &Umem) -> Held {
        let of = |(_, socket): &&(u8, Socket<'_>)| std::ptr::eq(socket.umem(), umem);
        self.sockets.iter().filter(of).fold(Held::default(), |held, (_, socket)| Held {
            sockets: held.sockets + 1,
            frames: held.frames + socket.capacity(),
        })
    }

    fn set_transmit_mode(&mut self, device: u8, mode: TransmitMode) {
        self.copying.set(device, !mode.zero_copy);
        self.senders[usize::from(device) % MAX_DEVICES] = mode.by.unwrap_or(NONE);
        for (_, socket) in self.sockets.iter_mut().filter(|(of, _)| *of == device) {
            socket.set_zero_copy(mode.zero_copy);
        }
        self.usable.set(device, true);
        self.number();
    }

    fn close(&mut self, device: u8) {
        self.flush_outbox();
        self.usable.set(device, false);
        self.copying.set(device, false);
        let index = usize::from(device) % MAX_DEVICES;
        self.senders[index] = NONE;
        for (_, socket) in self.sockets.extract_if(.., |(of, _)| *of == device) {
            add_figures(&mut self.retired[index], &socket);
            self.leases.extend(socket.close().map(|lease| (device, lease)));
        }
        self.number();
    }

    /// Finds the first sockets anew.
    fn number(&mut self) {
        let devices = self.sockets.iter().map(|(device, _)| *device);
        self.first = first_sockets(devices, self.usable);
    }

    /// What became of frames, by device index.
    pub fn figures(&self) -> [DeviceStatus; MAX_DEVICES] {
        let mut figures = self.retired;
        for (device, socket) in &self.sockets {
            let status = &mut figures[usize::from(*device) % MAX_DEVICES];
            status.sockets += 1;
            let mode = if socket.zero_copy() { SocketMode::ZeroCopy } else { SocketMode::Copy };
            status.mode = mode as u32;
            add_figures(status, socket);
        }
        for (status, sent) in figures.iter_mut().zip(&self.by_transmitter) {
            status.tx_completed += sent.done;
            status.tx_invalid += sent.lost;
        }
        figures
    }

    /// Frames in rings, and those that wait for the transmitter.
    pub fn in_flight(&self) -> u32 {
        let in_rings = self.sockets.iter().map(|(_, socket)| socket.in_flight());
        in_rings.map(|(filled, sending)| filled + sending).sum::<u32>() + self.outbox.len() as u32
    }

    /// Sends what is queued, takes back what was sent, and gives free frames to receive into.
    pub fn flush(&mut self) {
        self.flush_outbox();
        for (_, socket) in &mut self.sockets {
            // An error other than a busy or absent device is the device's end, which the main thread
            // sees to.
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

    fn socket_of(&mut self, device: u8) -> Option<&mut Socket<'u>> {
        let index = self.first.get(usize::from(device)).copied().unwrap_or(NO_SOCKET);
        self.sockets.get_mut(usize::from(index)).map(|(_, socket)| socket)
    }

    fn by_socket(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        let Some(socket) = self.socket_of(device) else { return self.by_another(device, frame) };
        let Err(frame) = socket.transmit(frame) else { return Ok(()) };
        let frame = match socket.owns(&frame) {
            true => frame,
            false => {
                let Some(mut copy) = socket.umem().alloc() else { return Err(frame) };
                if !copy.set_data(frame.data()) {
                    return Err(frame);
                }
                let Err(copy) = socket.transmit(copy) else { return Ok(()) };
                copy
            }
        };
        // Full: let the kernel send, then try once more.
        let _ = socket.flush();
        socket.complete();
        socket.transmit(frame)
    }

    fn by_another(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        let sender = self.senders.get(usize::from(device)).copied().unwrap_or(NONE);
        let given = sender != NONE && self.handoff.push(sender, device, Task::Send, frame.data());
        if given { Ok(()) } else { Err(frame) }
    }
}

impl<'u> Output<Frame<'u>> for Ports<'u> {
    #[inline]
    fn transmit(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        let copies = self.copying.contains(device);
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
        self.memory.alloc_large()
    }

    fn send_for_another(&mut self, device: u8, packet: &[u8]) {
        let frame = self.memory.alloc(packet.len()).filter(|_| self.socket_of(device).is_some());
        let sent = frame.is_some_and(|mut frame| {
            frame.set_data(packet) && self.by_socket(device, frame).is_ok()
        });
        if !sent {
            self.by_transmitter[usize::from(device) % MAX_DEVICES].lost += 1;
        }
    }

    fn hand_off(&mut self, worker: u8, device: u8, frame: &[u8]) -> bool {
        self.handoff.push(worker, device, Task::Handle, frame)
    }
}

fn add_figures(status: &mut DeviceStatus, socket: &Socket<'_>) {
    status.tx_completed += socket.completed();
    if let Ok(kernel) = socket.statistics() {
        status.rx_dropped += kernel.rx_dropped;
        status.tx_invalid += kernel.tx_invalid_descs + socket.corrupt();
        status.rx_ring_full += kernel.rx_ring_full.unwrap_or(0);
        status.fill_ring_empty += kernel.rx_fill_ring_empty_descs.unwrap_or(0);
    }
}

/// Number of the first socket of each device that is usable, given the device of each socket.
fn first_sockets(devices: impl Iterator<Item = u8>, usable: IndexSet) -> [u16; MAX_DEVICES] {
    let mut first = [NO_SOCKET; MAX_DEVICES];
    for (number, device) in (0..NO_SOCKET).zip(devices) {
        let first = &mut first[usize::from(device) % MAX_DEVICES];
        if usable.contains(device) && *first == NO_SOCKET {
            *first = number;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_sends_by_its_own_socket_however_many_there_are() {
        let of = |device: u8, count: usize| std::iter::repeat_n(device, count);
        let devices = of(0, 64).chain(of(1, 191)).chain(of(5, 1)).chain(of(3, 1)).chain(of(4, 1));
        let first = first_sockets(devices, IndexSet::from_bits(0b01_1011));
        assert_eq!(first[..6], [0, 64, NO_SOCKET, 256, 257, NO_SOCKET], "the last is not usable");
    }
}
