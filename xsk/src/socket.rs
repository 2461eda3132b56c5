//! A socket: binding to a queue, and moving frames through its rings.

use std::cell::Cell;
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
    XdpDescOptions, XdpOptionsFlags, XdpRingOffset, XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::ring::{Consumer, Producer, RingMemory};
use crate::umem::{Frame, Lease, Memory, Umem};

/// Descriptors the kernel sends per system call in copy mode (`TX_BATCH_SIZE`, `net/xdp/xsk.c`).
const COPY_MODE_BURST: u32 = 32;

/// How frames get between driver and UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// Zero-copy if the driver offers it, else copy; read back what it became.
    Auto,
    /// Copied by the kernel.
    Copy,
    /// Zero-copy or an error.
    ZeroCopy,
}

/// What to bind to.
#[derive(Clone, Copy, Debug)]
pub struct SocketConfig {
    /// Kernel interface index.
    pub ifindex: u32,
    /// Receive queue.
    pub queue: u32,
    /// Slots of each of the four rings, a power of two.
    pub ring_size: u32,
    /// How frames travel. A socket that shares its UMEM inherits the first one's.
    pub mode: BindMode,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} an AF_XDP socket on interface {ifindex} queue {queue}: {source}{}", hint(.source))]
pub struct Error {
    action: &'static str,
    ifindex: u32,
    queue: u32,
    source: std::io::Error,
}

impl Error {
    fn new(action: &'static str, config: SocketConfig, source: Errno) -> Self {
        let SocketConfig { ifindex, queue, .. } = config;
        Self { action, ifindex, queue, source: source.into() }
    }

    /// The kernel's error number.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// The queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Has the queue another socket? That may be one which is being torn down, which the kernel
    /// does after `close` returns.
    pub fn is_busy(&self) -> bool {
        self.errno() == libc::EBUSY
    }
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => "; CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF are needed",
        Some(libc::EBUSY) => "; another process has the queue: stop it",
        Some(libc::EINVAL) => "; does the interface have that queue?",
        Some(libc::EOPNOTSUPP) => "; the driver has no zero-copy: use copy mode",
        Some(libc::ENOBUFS) | Some(libc::ENOMEM) => "; raise RLIMIT_MEMLOCK",
        _ => "",
    }
}

/// A mapped ring; unmapped on drop, and all four must be before the queue is free again.
#[derive(Debug)]
struct RingMapping {
    base: NonNull<c_void>,
    bytes: usize,
}

impl RingMapping {
    fn new<T: Copy>(
        fd: BorrowedFd<'_>,
        page: u64,
        at: &XdpRingOffset,
        size: u32,
    ) -> Result<(Self, RingMemory<T>), Errno> {
        let bytes = at.desc as usize + size as usize * size_of::<T>();
        let (prot, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a shared mapping of the socket's ring at an address of the kernel's choice.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, flags, fd, page) }?;
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        // SAFETY: the offsets are the kernel's own for this mapping.
        let memory = unsafe {
            RingMemory {
                producer: base.byte_add(at.producer as usize).cast(),
                consumer: base.byte_add(at.consumer as usize).cast(),
                flags: at.flags.map(|flags| base.byte_add(flags as usize).cast()),
                slots: base.byte_add(at.desc as usize).cast(),
                size,
            }
        };
        Ok((Self { base, bytes }, memory))
    }
}

impl Drop for RingMapping {
    fn drop(&mut self) {
        // SAFETY: the range mapped in `new`; the rings on it are fields dropped with it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
    }
}

/// What binds a socket that another thread moves frames through: binding takes the kernel's lock of
/// all network devices, which others may hold for long, and so does the end of a socket.
#[derive(Debug)]
pub struct Binder {
    fd: OwnedFd,
    config: SocketConfig,
    region: XdpUmemReg,
    registered: bool,
    dead: Cell<bool>,
    /// What `region` is in.
    memory: Arc<Memory>,
}

impl Binder {
    /// What to bind to.
    pub fn config(&self) -> SocketConfig {
        self.config
    }

    /// Binds the socket; does the driver work on the UMEM itself? `shared` is a bound socket of the
    /// same UMEM, which then need not be registered anew.
    ///
    /// # Errors
    /// When the kernel refuses; it may be tried again.
    pub fn bind(&mut self, shared: Option<&Self>) -> Result<bool, Error> {
        let config = self.config;
        let SocketConfig { ifindex, queue, mode, .. } = config;
        let failed = |e: Errno| Error::new("bind", config, e);
        // A socket has its memory of its own or shared.
        let shared = shared.filter(|other| !self.registered && self.shares_memory_with(other));
        match shared {
            // The shared flag alone: mode and wake-ups are the first socket's (`xsk_bind`).
            Some(first) => {
                let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, ifindex, queue);
                let shared_umem_fd = first.fd.as_fd();
                let addr = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd };
                rustix::net::bind(&self.fd, &addr).map_err(failed)?;
            }
            None => {
                self.register()?;
                let mode = match mode {
                    BindMode::Auto => SocketAddrXdpFlags::empty(),
                    BindMode::Copy => SocketAddrXdpFlags::XDP_COPY,
                    BindMode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
                };
                let flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP | mode;
                rustix::net::bind(&self.fd, &SocketAddrXdp::new(flags, ifindex, queue))
                    .map_err(failed)?;
            }
        }
        let options = sockopt::xdp_options(&self.fd);
        let options = options.map_err(|e| Error::new("inspect", config, e))?;
        Ok(options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    fn register(&mut self) -> Result<(), Error> {
        if !self.registered {
            sockopt::set_xdp_umem_reg(&self.fd, self.region)
                .map_err(|e| Error::new("register memory for", self.config, e))?;
            self.registered = true;
        }
        Ok(())
    }

    /// Is it of a socket of the same UMEM?
    pub fn shares_memory_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// Has the socket lost its device (`xsk_notifier`)?
    pub fn is_dead(&self) -> bool {
        // The kernel forgets the error when it has told it.
        if !matches!(sockopt::socket_error(&self.fd), Ok(Ok(()))) {
            self.dead.set(true);
        }
        self.dead.get()
    }
}

impl AsRawFd for Binder {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// One device queue, bound or to be bound. Field order matters: rings go before their mappings and
/// the descriptor.
#[derive(Debug)]
pub struct Socket<'u> {
    umem: &'u Umem,
    fill: Producer<u64>,
    rx: Consumer<XdpDesc>,
    tx: Producer<XdpDesc>,
    completion: Consumer<u64>,
    filled: u32,
    sending: u32,
    corrupt: u64,
    completed: u64,
    zero_copy: bool,
    owner: u16,
    lease: Option<Lease<'u>>,
    ring_size: u32,
    queue: u32,
    _mappings: [RingMapping; 4],
    fd: OwnedFd,
}

impl<'u> Socket<'u> {
    /// Makes a socket with a full fill ring, and what binds it. Until it is bound nothing comes from
    /// it, and nothing is to be sent by it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(umem: &'u Umem, config: SocketConfig) -> Result<(Self, Binder), Error> {
        let ring_size = config.ring_size;
        let failed = |action| move |e: Errno| Error::new(action, config, e);
        if !ring_size.is_power_of_two() {
            return Err(failed("size")(Errno::INVAL));
        }
        let fd = rustix::net::socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed("open"))?;
        let sized = sockopt::set_xdp_umem_fill_ring_size(&fd, ring_size)
            .and_then(|()| sockopt::set_xdp_umem_completion_ring_size(&fd, ring_size))
            .and_then(|()| sockopt::set_xdp_rx_ring_size(&fd, ring_size))
            .and_then(|()| sockopt::set_xdp_tx_ring_size(&fd, ring_size));
        sized.map_err(failed("size the rings of"))?;
        let at = sockopt::xdp_mmap_offsets(&fd).map_err(failed("map"))?;
        let map_failed = failed("map the rings of");
        let (m0, fill) = RingMapping::new(fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, &at.fr, ring_size)
            .map_err(map_failed)?;
        let (m1, completion) =
            RingMapping::new(fd.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, ring_size)
                .map_err(map_failed)?;
        let (m2, rx) = RingMapping::new(fd.as_fd(), XDP_PGOFF_RX_RING, &at.rx, ring_size)
            .map_err(map_failed)?;
        let (m3, tx) = RingMapping::new(fd.as_fd(), XDP_PGOFF_TX_RING, &at.tx, ring_size)
            .map_err(map_failed)?;
        let twin = rustix::io::fcntl_dupfd_cloexec(&fd, 0).map_err(failed("open"))?;
        let lease = umem.lease().ok_or_else(|| failed("open")(Errno::MFILE))?;
        let mut socket = Self {
            umem,
            fill: Producer::new(fill),
            rx: Consumer::new(rx),
            tx: Producer::new(tx),
            completion: Consumer::new(completion),
            filled: 0,
            sending: 0,
            corrupt: 0,
            completed: 0,
            zero_copy: false,
            owner: lease.owner(),
            lease: Some(lease),
            ring_size,
            queue: config.queue,
            _mappings: [m0, m1, m2, m3],
            fd,
        };
        // Before the bind: zero-copy drivers take buffers while binding.
        socket.fill();
        let region = XdpUmemReg {
            addr: umem.address(),
            len: umem.bytes(),
            chunk_size: umem.frame_size(),
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        let memory = Arc::clone(umem.memory());
        let binder =
            Binder { fd: twin, config, region, registered: false, dead: Cell::new(false), memory };
        Ok((socket, binder))
    }

    /// What the binder said.
    pub fn set_zero_copy(&mut self, zero_copy: bool) {
        self.zero_copy = zero_copy;
    }

    /// The packet memory.
    pub fn umem(&self) -> &'u Umem {
        self.umem
    }

    /// Most frames that its rings hold.
    pub fn capacity(&self) -> u32 {
        2 * self.ring_size
    }

    /// Does the frame belong to the socket's UMEM?
    pub fn owns(&self, frame: &Frame<'u>) -> bool {
        std::ptr::eq(frame.umem(), self.umem)
    }

    /// Ends this thread's part of the socket. The kernel lets go of it when its [`Binder`] is
    /// dropped, and has then ended what it does with the frames in copy mode.
    pub fn close(mut self) -> Option<Lease<'u>> {
        self.retire()
    }

    fn retire(&mut self) -> Option<Lease<'u>> {
        self.complete();
        let mut lease = self.lease.take()?;
        lease.close(self.filled + self.sending);
        Some(lease)
    }

    /// Takes up to `max` received frames; says how many.
    #[inline]
    pub fn receive(&mut self, max: usize, mut take: impl FnMut(Frame<'u>)) -> usize {
        let mut count = 0;
        while count < max {
            let Some(descriptor) = self.rx.pop() else { break };
            self.filled = self.filled.saturating_sub(1);
            match self.umem.take_from_ring(self.owner, descriptor.addr, descriptor.len) {
                Some(frame) => take(frame),
                None => self.corrupt += 1,
            }
            count += 1;
        }
        if count > 0 {
            self.rx.release();
        }
        count
    }

    /// Frames that wait to be received.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.rx.waiting()
    }

    /// Most frames that may.
    #[inline]
    pub fn ring_size(&self) -> u32 {
        self.ring_size
    }

    /// The queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Gives free frames to the kernel to receive into, and wakes it if it waits for them.
    #[inline]
    pub fn refill(&mut self) {
        if self.fill() && self.fill.needs_wakeup() {
            let _ = rustix::net::recv(&self.fd, &mut [0u8; 0], RecvFlags::DONTWAIT);
        }
    }

    fn fill(&mut self) -> bool {
        let room = self.fill.free();
        let mut pushed = 0;
        while pushed < room {
            let Some(frame) = self.umem.alloc() else { break };
            // There is room, so the frame gets in.
            self.fill.push(frame.into_fill(self.owner));
            pushed += 1;
        }
        self.filled += pushed;
        if pushed > 0 {
            self.fill.publish();
        }
        pushed > 0
    }

    /// Queues a frame to be sent by the next [`Self::flush`]; gives it back when the ring is full,
    /// or when it belongs to another UMEM.
    #[inline]
    pub fn transmit(&mut self, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        if !self.owns(&frame) || !self.tx.has_room() {
            return Err(frame);
        }
        let (addr, len) = frame.into_ring(self.owner);
        self.tx.push(XdpDesc { addr, len, options: XdpDescOptions::empty() });
        self.sending += 1;
        Ok(())
    }

    /// Lets the kernel send what is queued. Copy mode sends within the call, a burst at a time.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.tx.publish();
        let mut kicks = self.tx.pending().div_ceil(COPY_MODE_BURST);
        while kicks > 0 && self.tx.pending() > 0 && self.tx.needs_wakeup() {
            match rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT) {
                // Busy or out of buffers: what is left goes with the next flush.
                Ok(_) | Err(Errno::AGAIN) => kicks -= 1,
                Err(Errno::BUSY | Errno::NOBUFS) => break,
                // The interface is down: frames stay queued, and the ring says full.
                Err(Errno::NETDOWN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes frames that were sent back to the free list; says how many.
    #[inline]
    pub fn complete(&mut self) -> u32 {
        let mut count = 0;
        while let Some(addr) = self.completion.pop() {
            match self.umem.take_from_ring(self.owner, addr, 0) {
                Some(frame) => drop(frame),
                None => self.corrupt += 1,
            }
            count += 1;
        }
        if count > 0 {
            self.completion.release();
            self.sending = self.sending.saturating_sub(count);
            self.completed += u64::from(count);
        }
        count
    }

    /// Does the driver work on the UMEM itself? As the kernel says, not as was asked.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// The kernel's counters of this socket.
    pub fn statistics(&self) -> std::io::Result<XdpStatistics> {
        Ok(sockopt::xdp_statistics(&self.fd)?)
    }

    /// Frames with the kernel: to be received into, to be sent.
    pub fn in_flight(&self) -> (u32, u32) {
        (self.filled, self.sending)
    }

    /// Frames the kernel reported as sent.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Descriptors from the kernel that made no sense.
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }
}

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket<'_> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        self.retire();
    }
}
