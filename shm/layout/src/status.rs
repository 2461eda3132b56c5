//! The status page: what the dataplane says about itself.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Family, MAX_DEVICES, MAX_WORKERS, RegionHeader};

/// How a device carries AF_XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SocketMode {
    /// No socket bound.
    Detached = 0,
    /// Frames are copied between the driver and the UMEM.
    Copy = 1,
    /// The driver works on the UMEM itself.
    ZeroCopy = 2,
}

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceState {
    /// Nothing is known: the configuration does not name it, or it was not looked at yet.
    Unknown = 0,
    /// Its interface is missing, or of a kind that cannot be used.
    Waiting = 1,
    /// Its sockets are being bound.
    Joining = 2,
    /// Every queue has a socket, and the XDP program is on it.
    Attached = 3,
    /// The kernel refused it, see [`Refusal`]. It is tried again.
    Refused = 4,
}

impl DeviceState {
    /// What a byte of shared memory says; anything unknown is [`Self::Unknown`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Waiting,
            2 => Self::Joining,
            3 => Self::Attached,
            4 => Self::Refused,
            _ => Self::Unknown,
        }
    }
}

/// Why a device was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// It was not.
    None = 0,
    /// It has more queues than [`MAX_QUEUES`](super::MAX_QUEUES), and what comes in by those above
    /// could be given to nobody.
    Queues = 1,
    /// A socket could not be made, or bound to its queue.
    Socket = 2,
    /// The XDP program could not be attached.
    Program = 3,
    /// There is no packet memory for its sockets.
    Memory = 4,
}

impl Refusal {
    /// What a byte of shared memory says; anything unknown is [`Self::None`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Queues,
            2 => Self::Socket,
            3 => Self::Program,
            4 => Self::Memory,
            _ => Self::None,
        }
    }
}

/// Sockets of one device, summed over queues. 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DeviceStatus {
    /// Interface the sockets are bound to; 0 = none.
    pub ifindex: u32,
    /// [`SocketMode`].
    pub mode: u32,
    /// Sockets bound.
    pub sockets: u32,
    /// Native (1) or generic (2) XDP; 0 = not attached.
    pub xdp: u32,
    /// XDP_STATISTICS: received frames dropped for reasons other than a full ring.
    pub rx_dropped: u64,
    /// Frames that were lost on the way to the kernel: descriptors that it refused (XDP_STATISTICS),
    /// and what neither the tap device nor a socket took.
    pub tx_invalid: u64,
    /// XDP_STATISTICS: frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// XDP_STATISTICS: times the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Frames the kernel took: reported as sent by the sockets, or written to the tap device.
    pub tx_completed: u64,
    /// [`DeviceState`].
    pub state: u8,
    /// [`Refusal`].
    pub refusal: u8,
    /// Error number of the kernel that came with the refusal, 0 = none.
    pub errno: u16,
    /// The queue that was refused.
    pub queue: u32,
}

/// One worker. 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct WorkerStatus {
    /// When the worker last finished a turn, CLOCK_MONOTONIC milliseconds; 0 = not running.
    pub heartbeat_ms: u64,
    /// Epoch of the control page the worker works by.
    pub epoch: u64,
    /// Flows the worker owns.
    pub flows: u64,
    /// Frames of the UMEM.
    pub frames: u64,
    /// Frames on the free list, in rings and in hand; equals `frames` unless one leaked.
    pub frames_accounted: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// The whole status page.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StatusPage {
    /// Identification.
    pub header: RegionHeader,
    /// Process id of the dataplane, 0 = stopped. Atomic.
    pub pid: u64,
    /// Key of the flow hash, random per boot. Written before the first flow, then constant.
    pub hash_key: [u64; 2],
    /// By [`Family`]: identification of its flow table, whose slots fill it from first to last byte.
    pub flows: [RegionHeader; Family::COUNT],
    /// Worker threads running. Atomic.
    pub workers: u64,
    /// Frames that workers wrote to the tap device and that were refused there, because the device
    /// they were for was down or gone. Of this process.
    pub tap_refused: u64,
    /// Zero.
    pub reserved: [u64; 2],
    /// By device index of the control page.
    pub devices: [DeviceStatus; MAX_DEVICES],
    /// By worker.
    pub worker: [WorkerStatus; MAX_WORKERS],
}

const _: () = {
    assert!(size_of::<DeviceStatus>() == 64);
    assert!(size_of::<WorkerStatus>() == 64);
    assert!(size_of::<StatusPage>().is_multiple_of(8));
};
