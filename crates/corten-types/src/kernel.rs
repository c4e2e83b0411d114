//! Names of the kernel that more than one crate checks its input against.

use crate::runtime_spec::NamespaceKind;

/// Every limit of setrlimit(2) by docker's name: `RLIMIT_NOFILE` is `nofile`.
pub const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The namespace that a kernel parameter, in its dotted form, belongs to (sysctl(8), namespaces(7)); `None` for one of
/// the whole machine.
pub fn sysctl_namespace(name: &str) -> Option<NamespaceKind> {
    if IPC_SYSCTLS.contains(&name) || name.starts_with("fs.mqueue.") {
        return Some(NamespaceKind::Ipc);
    }
    if name.starts_with("net.") {
        return Some(NamespaceKind::Network);
    }
    matches!(name, "kernel.domainname" | "kernel.hostname").then_some(NamespaceKind::Uts)
}

/// The number of a signal by number or name: `9`, `KILL`, `SIGKILL`, `RTMIN+3` (signal(7)); `EXIT` and 0 are none.
pub fn signal(word: &str) -> Option<i32> {
    if let Ok(number) = word.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |text: &str| text.parse::<i32>().ok().filter(|offset| (0..=30).contains(offset));
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(34),
        (_, Some("")) => Some(64),
        (Some(rest), _) => rest.strip_prefix('+').and_then(offset).map(|offset| 34 + offset),
        (_, Some(rest)) => rest.strip_prefix('-').and_then(offset).map(|offset| 64 - offset),
        (None, None) => None,
    }
}

/// The name of a signal, without `SIG`.
pub fn signal_name(number: i32) -> Option<&'static str> {
    SIGNALS.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const SIGNALS: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
    ("EXIT", 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_the_whole_machine_belongs_to_no_namespace() {
        assert_eq!(sysctl_namespace("kernel.panic"), None);
        assert_eq!(sysctl_namespace("net.ipv4.ip_forward"), Some(NamespaceKind::Network));
        assert_eq!(sysctl_namespace("kernel.sem"), Some(NamespaceKind::Ipc));
    }
}
