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
