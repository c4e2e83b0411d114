//! Attributes of the calling process that rustix does not set.
#![expect(
    unsafe_code,
    reason = "personality, keyctl, ioprio_set, sched_setattr and set_mempolicy have no safe wrapper"
)]

use std::ffi::CStr;

use rustix::io::Result;

use crate::check;

/// Sets the execution domain (personality(2)).
pub fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: affects only how the kernel treats this process.
    check(unsafe { libc::personality(domain) }.into()).map(drop)
}

/// Joins (or makes) the session keyring `name` (keyctl_join_session_keyring(3)); its serial number.
pub fn join_session_keyring(name: &CStr) -> Result<i32> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let serial = check(unsafe { libc::syscall(libc::SYS_keyctl, 1, name.as_ptr(), 0, 0, 0) })?;
    Ok(i32::try_from(serial).unwrap_or(-1))
}

/// Adds `bits` to the permissions of key `serial`, keeping those of `mask` (keyctl_setperm(3)).
pub fn set_key_permissions(serial: i32, mask: u32, bits: u32) -> Result<()> {
    let mut text = [0u8; 256];
    // SAFETY: KEYCTL_DESCRIBE (6) writes at most `text.len()` bytes into `text`.
    let length = check(unsafe { libc::syscall(libc::SYS_keyctl, 6, serial, text.as_mut_ptr(), text.len(), 0) })?;
    let text = &text[..usize::try_from(length).unwrap_or(0).min(text.len())];
    let current = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.split(';').nth(3))
        .and_then(|word| u32::from_str_radix(word, 16).ok())
        .ok_or(rustix::io::Errno::INVAL)?;
    // SAFETY: KEYCTL_SETPERM (5) takes plain numbers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 5, serial, (current & mask) | bits, 0, 0) }).map(drop)
}

/// Sets the I/O priority of the calling process (ioprio_set(2)).
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    // SAFETY: plain numbers; IOPRIO_WHO_PROCESS is 1, and 0 means the caller.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, (class << 13) | priority) }).map(drop)
}

/// Scheduling attributes (sched_setattr(2)).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedulerAttributes {
    /// Set by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// Nice value of the ordinary policies.
    pub nice: i32,
    /// Static priority of the real-time policies.
    pub priority: u32,
    /// Nanoseconds, SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, SCHED_DEADLINE.
    pub period: u64,
    /// Utilisation clamp.
    pub util_min: u32,
    /// Utilisation clamp.
    pub util_max: u32,
}

/// Sets the scheduling policy of the calling thread.
pub fn set_scheduler(mut attributes: SchedulerAttributes) -> Result<()> {
    attributes.size = u32::try_from(size_of::<SchedulerAttributes>()).unwrap_or_default();
    // SAFETY: the kernel reads `size` bytes of a struct laid out as its own sched_attr.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Sets the NUMA policy of the calling thread (set_mempolicy(2)); `nodes` is a bit mask, lowest node first.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel reads one bit fewer than `maxnode` says (set_mempolicy(2), BUGS).
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the kernel reads `bits - 1` bits, all of them inside `nodes`.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}
