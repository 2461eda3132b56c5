//! The buffer a packet lives in, as the engine sees it.

/// A frame that can be rewritten and whose start can move by a VLAN tag.
pub trait Buffer {
    /// The frame, from the Ethernet header on.
    fn data(&self) -> &[u8];
    /// The frame, writable.
    fn data_mut(&mut self) -> &mut [u8];
    /// Makes room for `n` more bytes in front; `false` when there is none.
    fn grow_front(&mut self, n: usize) -> bool;
    /// Gives up the first `n` bytes.
    fn shrink_front(&mut self, n: usize) -> bool;
    /// Replaces the frame; `false` when it does not fit.
    fn set_data(&mut self, data: &[u8]) -> bool;
}

/// Where the engine's packets go.
pub trait Output<B> {
    /// Queues a frame on a device; gives it back when the device's ring is full.
    fn transmit(&mut self, device: u8, frame: B) -> Result<(), B>;
    /// As [`Self::transmit`], for a packet of the gateway's own, which can be made again: it goes where
    /// a full ring is told of.
    fn originate(&mut self, device: u8, frame: B) -> Result<(), B> {
        self.transmit(device, frame)
    }
    /// Sends a packet for a worker that has no socket of the device. If it cannot, the packet is lost.
    fn send_for_another(&mut self, device: u8, packet: &[u8]);
    /// A fresh frame for a packet of the gateway's own, or one that another worker hands off.
    fn allocate(&mut self) -> Option<B>;
    /// Copies a frame that came in by `device` to another worker; `false` when its ring is full.
    fn hand_off(&mut self, worker: u8, device: u8, frame: &[u8]) -> bool;
}

/// A received frame and the device (index in the control page) it came in by.
#[derive(Debug)]
pub struct Received<B> {
    /// The frame.
    pub frame: B,
    /// Device index.
    pub device: u8,
}

impl Buffer for weir_xsk::Frame<'_> {
    fn data(&self) -> &[u8] {
        self.data()
    }

    fn data_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }

    fn grow_front(&mut self, n: usize) -> bool {
        self.grow_front(n)
    }

    fn shrink_front(&mut self, n: usize) -> bool {
        self.shrink_front(n)
    }

    fn set_data(&mut self, data: &[u8]) -> bool {
        self.set_data(data)
    }
}

/// A frame in ordinary memory, with room for a tag in front: for tests, and for measuring without
/// a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeapFrame {
    bytes: Vec<u8>,
    start: usize,
}

impl HeapFrame {
    const HEADROOM: usize = 32;

    /// A frame of these bytes.
    pub fn new(data: &[u8]) -> Self {
        let mut bytes = vec![0; Self::HEADROOM];
        bytes.extend_from_slice(data);
        Self { bytes, start: Self::HEADROOM }
    }
}

impl Buffer for HeapFrame {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn grow_front(&mut self, n: usize) -> bool {
        let room = n <= self.start;
        self.start -= if room { n } else { 0 };
        room
    }

    fn shrink_front(&mut self, n: usize) -> bool {
        let fits = n <= self.bytes.len() - self.start;
        self.start += if fits { n } else { 0 };
        fits
    }

    fn set_data(&mut self, data: &[u8]) -> bool {
        self.bytes.truncate(self.start);
        self.bytes.extend_from_slice(data);
        true
    }
}
