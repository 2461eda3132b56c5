//! AF_XDP sockets on rustix: frames between a network device and user space, without the kernel's
//! network stack.
//!
//! A [`Umem`] is a block of memory cut into frames and registered with the kernel. A [`Socket`] is
//! bound to one receive queue of one device and has four rings of descriptors over that memory:
//!
//! | ring | from, to | carries |
//! |---|---|---|
//! | fill | user → kernel | empty frames to receive into |
//! | rx | kernel → user | received frames |
//! | tx | user → kernel | frames to send |
//! | completion | kernel → user | frames that were sent |
//!
//! Sockets of one thread share one [`Umem`], so that a frame received by one is sent by another
//! without a copy. Binding is another thread's, see [`Binder`]. A frame in user hands is a [`Frame`]: it can be moved into a ring or dropped,
//! which returns it, and nothing else; losing one, or using one after giving it away, is not
//! expressible in safe code.
//!
//! The kernel sleeps on a ring until it is woken when the ring's *need wakeup* flag is up; the flag
//! is read before each system call, so a busy device costs none.
//!
//! | module | what it is |
//! |---|---|
//! | [`ring`] | producer and consumer of a ring, over any memory |
//! | [`umem`] | frames and their free list |
//! | [`socket`] | binding, the four rings, wake-ups |
//! | [`tap`] | a tap device to transmit by, which is faster than a socket in copy mode |
//!
//! All `unsafe` of AF_XDP is in this crate. Rules of the rings: `net/xdp/xsk_queue.h`; of binding:
//! `net/xdp/xsk.c`.

pub mod ring;
pub mod socket;
pub mod tap;
pub mod umem;

pub use socket::{BindMode, Binder, Error, Socket, SocketConfig};
pub use tap::Tap;
pub use umem::{Frame, Lease, Umem, UmemConfig};
