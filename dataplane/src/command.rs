//! What the main thread has workers do with the sockets of a device, and what they answer.
//!
//! A worker moves packets and waits for nothing; binding a socket and ending one wait for the lock of
//! all network devices. So the worker makes the socket and the main thread binds it, and in the end
//! the worker closes its part and the main thread lets go of it:
//!
//! | main thread | worker |
//! |---|---|
//! | [`Open`](Command::Open) | makes sockets, answers [`Opened`](Done::Opened) |
//! | binds them, enters them in the program's map, attaches it; [`Use`](Command::Use) | sends by them |
//! | takes them out of the map; [`Close`](Command::Close) | closes them, answers [`Closed`](Done::Closed) |
//! | drops what bound them; [`Release`](Command::Release) | has the frames again that the rings held |

use weir_layout::status::Refusal;
use weir_xsk::{Binder, SocketConfig};

/// From the main thread to a worker.
#[derive(Debug)]
pub enum Command {
    /// Make sockets of a device; there may be more to come.
    Open {
        /// Index in the control page.
        device: u8,
        /// Bytes of a frame.
        frame_size: u32,
        /// One for each.
        sockets: Vec<SocketConfig>,
    },
    /// From now on packets leave by the device so.
    Use {
        /// Index in the control page.
        device: u8,
        /// How.
        mode: TransmitMode,
    },
    /// Close the sockets of a device, and send by it no more.
    Close {
        /// Index in the control page.
        device: u8,
    },
    /// The kernel has let go of the closed sockets of a device.
    Release {
        /// Index in the control page.
        device: u8,
        /// And nobody writes to their frames any more.
        reclaim: bool,
    },
}

/// How a worker's packets leave by a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmitMode {
    /// Sockets of the device work on the UMEM itself.
    pub zero_copy: bool,
    /// The worker that sends for one that has no socket there.
    pub by: Option<u8>,
}

/// From a worker to the main thread.
#[derive(Debug)]
pub struct Reply {
    /// Index in the control page.
    pub device: u8,
    /// What is done.
    pub done: Done,
}

/// What a worker has done.
#[derive(Debug)]
pub enum Done {
    /// The sockets are made, and these bind them; or there are none.
    Opened(Result<Vec<Binder>, Refused>),
    /// They are closed.
    Closed,
}

/// Why there are none, or a device is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of what kind.
    pub refusal: Refusal,
    /// Error number of the kernel, 0 = none.
    pub errno: i32,
    /// The queue that was refused.
    pub queue: u32,
    /// For the log.
    pub message: String,
}

impl Refused {
    /// Of the XDP program.
    pub fn program(errno: Option<i32>, message: String) -> Self {
        Self { refusal: Refusal::Program, errno: errno.unwrap_or(0), queue: 0, message }
    }

    /// As [`Self::program`], with the number of the error that caused it.
    pub fn of_program(error: &anyhow::Error) -> Self {
        let os = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        Self::program(os.and_then(std::io::Error::raw_os_error), format!("{error:#}"))
    }
}

impl From<weir_xsk::Error> for Refused {
    fn from(error: weir_xsk::Error) -> Self {
        Self {
            refusal: Refusal::Socket,
            errno: error.errno(),
            queue: error.queue(),
            message: error.to_string(),
        }
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        let message = format!("no packet memory: {error}");
        let errno = error.raw_os_error().unwrap_or(0);
        Self { refusal: Refusal::Memory, errno, queue: 0, message }
    }
}
