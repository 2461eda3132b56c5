//! Packet bytes as words. IP headers stand at even addresses, no better; the machine loads words
//! from anywhere, but the compiler, which must not know that, would load each byte.

use core::arch::asm;

use aya_ebpf::programs::XdpContext;

/// A pointer to `LEN` bytes of the frame at `at`, if they are all there.
#[inline(always)]
pub fn at<const LEN: usize>(ctx: &XdpContext, at: usize) -> Option<*mut u8> {
    let start = ctx.data() + at;
    if start + LEN > ctx.data_end() { None } else { Some(start as *mut u8) }
}

macro_rules! word {
    ($load:ident, $store:ident, $type:ty, $bpf:literal) => {
        /// The word at `from`, which may stand anywhere.
        ///
        /// # Safety
        /// All of it is in the frame, as the verifier checks.
        #[inline(always)]
        pub unsafe fn $load(from: *const u8) -> $type {
            let value: u64;
            // SAFETY: one load, of what the caller vouches for.
            unsafe {
                asm!(concat!("{0} = *(", $bpf, " *)({1} + 0)"), out(reg) value, in(reg) from,
                     options(nostack, readonly, preserves_flags));
            }
            value as $type
        }

        /// Stores the word at `to`, which may stand anywhere.
        ///
        /// # Safety
        /// All of it is in the frame, as the verifier checks.
        #[inline(always)]
        pub unsafe fn $store(to: *mut u8, value: $type) {
            // SAFETY: one store, to what the caller vouches for.
            unsafe {
                asm!(concat!("*(", $bpf, " *)({0} + 0) = {1}"), in(reg) to, in(reg) value as u64,
                     options(nostack, preserves_flags));
            }
        }
    };
}

word!(load64, store64, u64, "u64");
word!(load32, store32, u32, "u32");
word!(load16, store16, u16, "u16");
