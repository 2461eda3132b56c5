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

/// All ones if the number is zero, else zero. By arithmetic that the compiler cannot see through: it
/// would make a branch of it, and where that goes may be a matter of chance.
#[inline(always)]
pub fn if_zero(number: u64) -> u64 {
    let mut negative = number;
    // SAFETY: one instruction, on a register.
    unsafe { asm!("{0} = -{0}", inout(reg) negative, options(nostack, nomem, pure)) };
    ((number | negative) >> 63).wrapping_sub(1)
}

macro_rules! word {
    ($load:ident, $store:ident, $bpf:literal) => {
        /// The word `AT` bytes from `from`, which may stand anywhere; above it, zero.
        ///
        /// # Safety
        /// All of it is in the frame, as the verifier checks.
        #[inline(always)]
        pub unsafe fn $load<const AT: i16>(from: *const u8) -> u64 {
            let value: u64;
            // SAFETY: one load, of what the caller vouches for.
            unsafe {
                asm!(concat!("{0} = *(", $bpf, " *)({1} + {2})"), out(reg) value, in(reg) from,
                     const AT, options(nostack, readonly, preserves_flags));
            }
            value
        }

        /// Stores the low bits of `value` `AT` bytes from `to`, which may stand anywhere.
        ///
        /// # Safety
        /// All of it is in the frame, as the verifier checks.
        #[inline(always)]
        pub unsafe fn $store<const AT: i16>(to: *mut u8, value: u64) {
            // SAFETY: one store, to what the caller vouches for.
            unsafe {
                asm!(concat!("*(", $bpf, " *)({0} + {2}) = {1}"), in(reg) to, in(reg) value,
                     const AT, options(nostack, preserves_flags));
            }
        }
    };
}

word!(load64, store64, "u64");
word!(load32, store32, "u32");
word!(load16, store16, "u16");
