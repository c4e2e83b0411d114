//! Device programs of cgroup2: eBPF that decides which devices a cgroup may use (bpf(2)).
#![expect(unsafe_code, reason = "bpf has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

use crate::check;

const PROGRAM_LOAD: i32 = 5;
const PROGRAM_ATTACH: i32 = 8;
const PROGRAM_DETACH: i32 = 9;
const PROGRAM_FD_BY_ID: i32 = 13;
const PROGRAM_QUERY: i32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// The kernel attaches at most this many programs to one cgroup.
const PROGRAMS_MAX: u32 = 64;

/// One instruction of an eBPF program (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low, source register in the high four bits.
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct QueryAttributes {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
}

/// Has the kernel check and load a device program.
pub fn load_device_program(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut name = [0; 16];
    name[..13].copy_from_slice(b"corten_device");
    let attributes = LoadAttributes {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    // SAFETY: the kernel reads `count` instructions and the NUL-terminated licence, all of which outlive the call, and
    // writes no log.
    let fd = unsafe { bpf(PROGRAM_LOAD, &attributes) }?;
    // SAFETY: PROGRAM_LOAD gives a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches `program` to `cgroup`, in the place of `replaced` where given (Linux 5.6).
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let attributes = AttachAttributes {
        target: number(cgroup),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags: if replaced.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: plain numbers.
    unsafe { bpf(PROGRAM_ATTACH, &attributes) }.map(drop)
}

/// Detaches `program` from `cgroup`.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let attributes = AttachAttributes {
        target: number(cgroup),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    // SAFETY: plain numbers.
    unsafe { bpf(PROGRAM_DETACH, &attributes) }.map(drop)
}

/// The device programs attached to `cgroup` itself; those that a security module hides are left out.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; PROGRAMS_MAX as usize];
    let mut attributes = QueryAttributes {
        target: number(cgroup),
        kind: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX,
    };
    // SAFETY: the kernel writes at most `count` ids into `ids` and the number of programs into `attributes`; both outlive
    // the call, and nothing else refers to them meanwhile.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROGRAM_QUERY, &raw mut attributes, size_of::<QueryAttributes>()) })?;
    let count = attributes.count.min(PROGRAMS_MAX) as usize;
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        // SAFETY: the attributes are three numbers: the id, and two that stay zero.
        match unsafe { bpf(PROGRAM_FD_BY_ID, &[*id, 0, 0]) } {
            // SAFETY: PROGRAM_FD_BY_ID gives a new descriptor that nobody else owns.
            Ok(fd) => programs.push(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}

/// # Safety
/// Every address in `attributes` is valid for what `command` does with it, and `command` writes nothing into `attributes`.
unsafe fn bpf<T>(command: i32, attributes: &T) -> Result<RawFd> {
    // SAFETY: the kernel reads size_of::<T>() bytes of `attributes`; the rest is the caller's promise.
    let result =
        check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) })?;
    i32::try_from(result).map_err(|_| Errno::INVAL)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
