//! A program on a cgroup that marks the sockets made in it.
//!
//! By bpf(2) as it is: the program is four instructions, and it has to stay with the cgroup when
//! this process ends, which links do not.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands, types and offsets of `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_SOCK: u32 = 9;
const BPF_CGROUP_INET_SOCK_CREATE: u32 = 2;
/// `offsetof(struct bpf_sock, mark)`.
const SOCK_MARK: i16 = 16;

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that attaches one.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: u32,
}

/// Gives every IPv4 and IPv6 socket that a process in the cgroup makes from now on this `SO_MARK`.
/// Replaces what an earlier call did; goes with the cgroup. `cgroup` is its directory, opened, of
/// cgroup v2.
///
/// # Errors
/// Those of bpf(2): EPERM without CAP_BPF and CAP_NET_ADMIN, or where a program of somebody else's
/// allows no others; EBADF when it is no cgroup.
pub fn mark_sockets(cgroup: &File, mark: u32) -> io::Result<()> {
    let program = load(mark)?;
    let attach = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_INET_SOCK_CREATE,
        attach_flags: 0,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

/// `sk->mark = mark; return 1`, which allows the socket.
fn load(mark: u32) -> io::Result<OwnedFd> {
    let (context, value, result) = (1, 2, 0);
    let program = [
        // value = mark
        Instruction { code: 0xb4, registers: value, offset: 0, immediate: mark },
        // *(u32 *)(context + SOCK_MARK) = value
        Instruction {
            code: 0x63,
            registers: value << 4 | context,
            offset: SOCK_MARK,
            immediate: 0,
        },
        // result = 1
        Instruction { code: 0xb7, registers: result, offset: 0, immediate: 1 },
        // return result
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    let mut prog_name = [0; 16];
    prog_name[..8].copy_from_slice(b"weir_use");
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_SOCK,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        prog_name,
        expected_attach_type: BPF_CGROUP_INET_SOCK_CREATE,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has just made this descriptor and gave it to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are a prefix of `union bpf_attr` of the size that is given, without
    // padding, and what they point to outlives the call, which keeps no pointer. The kernel writes
    // to none of it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let error = mark_sockets(&File::open("/").unwrap(), 7).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
    }
}
