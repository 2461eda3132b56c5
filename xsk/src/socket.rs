//! A socket: binding to a queue, and moving frames through its rings.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

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
use crate::umem::{Frame, Umem};

/// Times a bind is tried while the queue's last owner is being torn down, which the kernel does
/// after `close` returns.
const BIND_TRIES: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(20);

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

/// One device queue, bound. Field order matters: rings go before their mappings and the descriptor.
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
    _mappings: [RingMapping; 4],
    fd: OwnedFd,
}

impl<'u> Socket<'u> {
    /// Binds a queue. `shared` is a socket that already uses the same UMEM.
    pub fn bind(
        umem: &'u Umem,
        config: SocketConfig,
        shared: Option<&Socket<'u>>,
    ) -> Result<Self, Error> {
        let SocketConfig { ifindex, queue, ring_size, mode } = config;
        let failed = |action, e: Errno| Error { action, ifindex, queue, source: e.into() };
        if !ring_size.is_power_of_two() {
            return Err(failed("size", Errno::INVAL));
        }
        let fd = rustix::net::socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| failed("open", e))?;
        if shared.is_none() {
            let region = XdpUmemReg {
                addr: umem.address(),
                len: umem.bytes(),
                chunk_size: umem.frame_size(),
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            };
            sockopt::set_xdp_umem_reg(&fd, region).map_err(|e| failed("register memory for", e))?;
        }
        let sized = sockopt::set_xdp_umem_fill_ring_size(&fd, ring_size)
            .and_then(|()| sockopt::set_xdp_umem_completion_ring_size(&fd, ring_size))
            .and_then(|()| sockopt::set_xdp_rx_ring_size(&fd, ring_size))
            .and_then(|()| sockopt::set_xdp_tx_ring_size(&fd, ring_size));
        sized.map_err(|e| failed("size the rings of", e))?;
        let at = sockopt::xdp_mmap_offsets(&fd).map_err(|e| failed("map", e))?;
        let map_failed = |e| failed("map the rings of", e);
        let (m0, fill) = RingMapping::new(fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, &at.fr, ring_size)
            .map_err(map_failed)?;
        let (m1, completion) =
            RingMapping::new(fd.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, ring_size)
                .map_err(map_failed)?;
        let (m2, rx) = RingMapping::new(fd.as_fd(), XDP_PGOFF_RX_RING, &at.rx, ring_size)
            .map_err(map_failed)?;
        let (m3, tx) = RingMapping::new(fd.as_fd(), XDP_PGOFF_TX_RING, &at.tx, ring_size)
            .map_err(map_failed)?;
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
            _mappings: [m0, m1, m2, m3],
            fd,
        };
        // Before the bind: zero-copy drivers take buffers while binding.
        socket.fill();
        socket.bind_queue(ifindex, queue, mode, shared).map_err(|e| failed("bind", e))?;
        let options = sockopt::xdp_options(&socket.fd).map_err(|e| failed("inspect", e))?;
        socket.zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        Ok(socket)
    }

    fn bind_queue(
        &self,
        ifindex: u32,
        queue: u32,
        mode: BindMode,
        shared: Option<&Socket<'u>>,
    ) -> Result<(), Errno> {
        let flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP
            | match mode {
                BindMode::Auto => SocketAddrXdpFlags::empty(),
                BindMode::Copy => SocketAddrXdpFlags::XDP_COPY,
                BindMode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
            };
        for attempt in 1.. {
            let bound = match shared {
                None => rustix::net::bind(&self.fd, &SocketAddrXdp::new(flags, ifindex, queue)),
                // The shared flag alone: mode and wake-ups are the first socket's (`xsk_bind`).
                Some(first) => {
                    let addr =
                        SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, ifindex, queue);
                    let shared_umem_fd = first.fd.as_fd();
                    rustix::net::bind(
                        &self.fd,
                        &SocketAddrXdpWithSharedUmem { addr, shared_umem_fd },
                    )
                }
            };
            match bound {
                Err(Errno::BUSY) if attempt < BIND_TRIES => std::thread::sleep(BIND_PAUSE),
                other => return other,
            }
        }
        Err(Errno::BUSY)
    }

    /// Takes up to `max` received frames; says how many.
    #[inline]
    pub fn receive(&mut self, max: usize, mut take: impl FnMut(Frame<'u>)) -> usize {
        let mut count = 0;
        while count < max {
            let Some(descriptor) = self.rx.pop() else { break };
            self.filled = self.filled.saturating_sub(1);
            match self.umem.take_from_ring(descriptor.addr, descriptor.len) {
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
            self.fill.push(frame.into_fill());
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
        let own = std::ptr::eq(frame.umem(), self.umem);
        if !own || (self.tx.free() == 0) {
            return Err(frame);
        }
        let (addr, len) = frame.into_ring();
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
            match self.umem.take_from_ring(addr, 0) {
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
        self.complete();
        self.umem.forfeit(self.filled + self.sending);
    }
}
