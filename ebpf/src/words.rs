//! Packet bytes as words. IP headers stand at even addresses, no better; the machine loads words
//! from anywhere, but the compiler, which must not know that, would load each byte.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::programs::XdpContext;
use weir_wire::extensions::{self, Chain};
use weir_wire::parse::Reject;
use weir_wire::words::{Frame, Source, Words};

/// `LEN` bytes of the frame, which are all there.
#[derive(Clone, Copy)]
pub struct Bytes<const LEN: usize>(*mut u8);

/// `LEN` bytes of the frame at `at`, if they are all there.
#[inline(always)]
pub fn at<const LEN: usize>(ctx: &XdpContext, at: usize) -> Option<Bytes<LEN>> {
    let start = ctx.data() + at;
    if start + LEN > ctx.data_end() { None } else { Some(Bytes(start as *mut u8)) }
}

/// The frame of a run of the program.
pub struct XdpFrame<'a>(pub &'a XdpContext);

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn words<const LEN: usize>(&mut self, start: usize) -> Option<impl Words> {
        at::<LEN>(self.0, start)
    }
}

impl Source for XdpFrame<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, at: u16) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let (ctx, copy) = (self.0.ctx, bytes.as_mut_ptr().cast());
        // SAFETY: `bytes` has room for as many.
        let loaded = unsafe { bpf_xdp_load_bytes(ctx, at.into(), copy, N as u32) };
        (loaded == 0).then_some(bytes)
    }

    #[inline(always)]
    fn walk(&self, next: u8, at: u16, end: u16) -> Result<Option<Chain>, Reject> {
        extensions::from_word(walk(self.0.ctx, next, at, end))
    }
}

/// Walks the extension headers of a packet. A function of its own, once for the packet and for the
/// one that it quotes: the caller's stack is full.
#[inline(never)]
fn walk(ctx: *mut xdp_md, next: u8, at: u16, end: u16) -> u64 {
    extensions::to_word(extensions::walk(&XdpFrame(&XdpContext::new(ctx)), next, at, end))
}

/// All ones if the number is zero, else zero. By arithmetic that the compiler cannot see through: it
/// would make a branch of it, and where that goes may be a matter of chance.
#[inline(always)]
pub fn if_zero(number: u64) -> u64 {
    let mut negative = number;
    // SAFETY: one instruction, on a register.
    unsafe { asm!("{0} = -{0}", inout(reg) negative, options(nostack, nomem, pure)) };
    ((number | negative) >> 63).wrapping_sub(1)
}

macro_rules! load {
    ($load:ident, $len:literal, $bpf:literal) => {
        /// The word at `AT`; above it, zero.
        #[inline(always)]
        pub fn $load<const AT: usize>(self) -> u64 {
            const { assert!(AT + $len <= LEN) };
            let value: u64;
            // SAFETY: one load, of bytes that are there.
            unsafe {
                asm!(concat!("{0} = *(", $bpf, " *)({1} + {2})"), out(reg) value, in(reg) self.0,
                     const AT, options(pure, nostack, readonly, preserves_flags));
            }
            value
        }
    };
}

macro_rules! store {
    ($store:ident, $len:literal, $bpf:literal) => {
        #[inline(always)]
        fn $store<const AT: usize>(&mut self, word: u64) {
            const { assert!(AT + $len <= LEN) };
            // SAFETY: one store, to bytes that are there.
            unsafe {
                asm!(concat!("*(", $bpf, " *)({0} + {2}) = {1}"), in(reg) self.0, in(reg) word,
                     const AT, options(nostack, preserves_flags));
            }
        }
    };
}

impl<const LEN: usize> Bytes<LEN> {
    load!(load64, 8, "u64");
    load!(load32, 4, "u32");
    load!(load16, 2, "u16");
}

impl<const LEN: usize> Words for Bytes<LEN> {
    #[inline(always)]
    fn load16<const AT: usize>(&self) -> u64 {
        Self::load16::<AT>(*self)
    }

    store!(store64, 8, "u64");
    store!(store32, 4, "u32");
    store!(store16, 2, "u16");
}
