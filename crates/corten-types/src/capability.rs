//! The capabilities of Linux by name and number (capabilities(7)).

/// Names without `CAP_`, by number.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of `CAP_NAME`, spelled exactly so; `None` for a name that is not known.
pub fn number(name: &str) -> Option<u32> {
    let bare = name.strip_prefix("CAP_")?;
    NAMES.iter().position(|known| *known == bare).and_then(|index| u32::try_from(index).ok())
}

/// `CAP_NAME` of a number; `None` above the last one known.
pub fn name(number: u32) -> Option<String> {
    NAMES.get(usize::try_from(number).ok()?).map(|name| format!("CAP_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(
            [number("CAP_CHOWN"), number("CAP_SYS_ADMIN"), number("CAP_CHECKPOINT_RESTORE")],
            [Some(0), Some(21), Some(40)]
        );
        assert_eq!([number("CHOWN"), number("CAP_chown"), number("CAP_FLY")], [None; 3]);
        assert_eq!(name(7).as_deref(), Some("CAP_SETUID"));
    }
}
