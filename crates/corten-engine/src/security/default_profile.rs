//! Docker's default profile: what an ordinary program needs, and what capabilities allow it besides.
//!
//! The data is that of github.com/moby/profiles as of June 2026 (AF_ALG refused beside AF_VSOCK, system calls of Linux 6.13).

use corten_types::runtime_spec::{Seccomp, SeccompArg, SeccompRule};

use super::seccomp::{Condition, Host, KernelVersion};

/// `CLONE_NEW*` of mount, UTS, IPC, user, pid, network and cgroup namespaces.
const NAMESPACES: u64 = 0x7e02_0000;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// System calls, separated by blanks, that are treated alike.
struct Group {
    names: &'static str,
    includes: Condition<'static, &'static str>,
    excludes: Condition<'static, &'static str>,
    /// Index, operator, operand; of a masked comparison the mask, whose bits must be clear.
    arg: Option<(u32, &'static str, u64)>,
    /// Refused with this error number in place of allowed.
    errno: Option<u32>,
}

const ANYWHERE: Condition<'static, &'static str> = Condition { capabilities: &[], architectures: &[], kernel: None };

const fn allow(names: &'static str) -> Group {
    Group { names, includes: ANYWHERE, excludes: ANYWHERE, arg: None, errno: None }
}

const fn allow_if(arg: (u32, &'static str, u64), names: &'static str) -> Group {
    Group { arg: Some(arg), ..allow(names) }
}

const fn with(capabilities: &'static [&'static str], names: &'static str) -> Group {
    Group { includes: Condition { capabilities, ..ANYWHERE }, ..allow(names) }
}

const fn on(architectures: &'static [&'static str], names: &'static str) -> Group {
    Group { includes: Condition { architectures, ..ANYWHERE }, ..allow(names) }
}

const fn since(kernel: KernelVersion, names: &'static str) -> Group {
    Group { includes: Condition { kernel: Some(kernel), ..ANYWHERE }, ..allow(names) }
}

const ADMIN: &[&str] = &["CAP_SYS_ADMIN"];
const S390: &[&str] = &["s390", "s390x"];

static GROUPS: [Group; 33] = [
    allow(ORDINARY),
    // ptrace could escape a filter before.
    since((4, 8), "process_vm_readv process_vm_writev ptrace"),
    // Every address family except AF_ALG (38) and AF_VSOCK (40).
    allow_if((0, "SCMP_CMP_LT", 38), "socket"),
    allow_if((0, "SCMP_CMP_EQ", 39), "socket"),
    allow_if((0, "SCMP_CMP_GT", 40), "socket"),
    // PER_LINUX, PER_LINUX32, UNAME26 with either, and asking for the present one.
    allow_if((0, "SCMP_CMP_EQ", 0), "personality"),
    allow_if((0, "SCMP_CMP_EQ", 0x8), "personality"),
    allow_if((0, "SCMP_CMP_EQ", 0x2_0000), "personality"),
    allow_if((0, "SCMP_CMP_EQ", 0x2_0008), "personality"),
    allow_if((0, "SCMP_CMP_EQ", 0xffff_ffff), "personality"),
    on(&["ppc64le"], "swapcontext sync_file_range2"),
    on(&["arm", "arm64"], "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
    on(&["amd64", "x32"], "arch_prctl"),
    on(&["amd64", "x32", "x86"], "modify_ldt"),
    on(S390, "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    on(&["riscv64"], "riscv_flush_icache"),
    with(&["CAP_DAC_READ_SEARCH"], "open_by_handle_at"),
    with(
        ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    // No new namespaces. The flags of clone3 lie in memory: a C library that is told it does not exist uses clone.
    Group {
        excludes: Condition { capabilities: ADMIN, architectures: S390, kernel: None },
        ..allow_if((0, "SCMP_CMP_MASKED_EQ", NAMESPACES), "clone")
    },
    Group {
        includes: Condition { architectures: S390, ..ANYWHERE },
        excludes: Condition { capabilities: ADMIN, ..ANYWHERE },
        ..allow_if((1, "SCMP_CMP_MASKED_EQ", NAMESPACES), "clone")
    },
    Group { excludes: Condition { capabilities: ADMIN, ..ANYWHERE }, errno: Some(ENOSYS), ..allow("clone3") },
    with(&["CAP_SYS_BOOT"], "reboot"),
    with(&["CAP_SYS_CHROOT"], "chroot"),
    with(&["CAP_SYS_MODULE"], "delete_module finit_module init_module"),
    with(&["CAP_SYS_PACCT"], "acct"),
    with(&["CAP_SYS_PTRACE"], "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    with(&["CAP_SYS_RAWIO"], "ioperm iopl"),
    with(&["CAP_SYS_TIME"], "clock_settime clock_settime64 settimeofday stime"),
    with(&["CAP_SYS_TTY_CONFIG"], "vhangup"),
    with(&["CAP_SYS_NICE"], "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    with(&["CAP_SYSLOG"], "syslog"),
    with(&["CAP_BPF"], "bpf"),
    with(&["CAP_PERFMON"], "perf_event_open"),
];

const ORDINARY: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark \
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock \
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu \
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 \
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect \
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
    mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep \
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect \
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 \
    recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir \
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area \
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid \
    setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 \
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat \
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime \
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Architectures whose programs also run on a machine of the first.
static ARCHITECTURES: [&[&str]; 7] = [
    &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    &["SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32"],
    &["SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32"],
    &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
    &["SCMP_ARCH_RISCV64"],
    &["SCMP_ARCH_LOONGARCH64"],
];

/// The profile for `host`.
pub(super) fn profile(host: &Host<'_>) -> Seccomp {
    let groups = GROUPS.iter().filter(|group| host.meets(&group.includes) && !host.is_excluded(&group.excludes));
    let architectures = ARCHITECTURES.iter().find(|list| list[0] == host.architecture.filter).copied();
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: architectures.unwrap_or_default().iter().map(ToString::to_string).collect(),
        syscalls: groups.map(rule).collect(),
        ..Seccomp::default()
    }
}

fn rule(group: &Group) -> SeccompRule {
    let arg = group.arg.map(|(index, op, value)| SeccompArg { index, value, value_two: 0, op: op.to_owned() });
    let action = if group.errno.is_some() { "SCMP_ACT_ERRNO" } else { "SCMP_ACT_ALLOW" };
    SeccompRule {
        names: group.names.split_ascii_whitespace().map(str::to_owned).collect(),
        action: action.to_owned(),
        errno_ret: group.errno,
        args: arg.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::capabilities;
    use super::super::seccomp::Architecture;
    use super::*;

    fn profile_for(architecture: &str, capabilities: &[&str], kernel: KernelVersion) -> Seccomp {
        profile(&Host { architecture: Architecture::named(architecture), capabilities, kernel })
    }

    /// One line a system call: `allow socket 0 SCMP_CMP_NE 40`.
    fn lines(profile: &Seccomp) -> BTreeSet<String> {
        let lines = profile.syscalls.iter().flat_map(|rule| {
            let verb = rule.errno_ret.map_or_else(|| "allow".to_owned(), |errno| format!("errno={errno}"));
            let args = rule.args.iter().map(|arg| format!(" {} {} {}", arg.index, arg.op, arg.value));
            let args = args.collect::<String>();
            rule.names.iter().map(move |name| format!("{verb} {name}{args}"))
        });
        lines.collect()
    }

    fn names(profile: &Seccomp) -> BTreeSet<&str> {
        profile.syscalls.iter().flat_map(|rule| rule.names.iter().map(String::as_str)).collect()
    }

    /// What dockerd 28.5.2 wrote into a container's config.json on x86_64, Linux 6.18. Since then docker also refuses AF_ALG.
    #[test]
    fn the_result_is_docker_s() {
        let fixture = include_str!("../../tests/data/docker-28-seccomp.txt");
        let mut expected: BTreeSet<String> = fixture
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| {
                let (verb, names, args) = match line.split('|').collect::<Vec<_>>()[..] {
                    [verb, names] => (verb, names, String::new()),
                    [verb, names, args] => (verb, names, format!(" {args}")),
                    _ => panic!("{line}"),
                };
                names.split(' ').map(|name| format!("{verb} {name}{args}")).collect::<Vec<_>>()
            })
            .collect();
        assert!(expected.remove("allow socket 0 SCMP_CMP_NE 40"));
        expected.extend(["LT 38", "EQ 39", "GT 40"].map(|rest| format!("allow socket 0 SCMP_CMP_{rest}")));
        let profile = profile_for("amd64", &capabilities::DEFAULT, (6, 18));
        assert_eq!(lines(&profile), expected);
        assert_eq!((profile.default_action.as_str(), profile.default_errno_ret), ("SCMP_ACT_ERRNO", Some(1)));
        assert_eq!(profile.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    }

    #[test]
    fn capabilities_open_their_calls() {
        let admin = profile_for("amd64", &["CAP_SYS_ADMIN", "CAP_SYS_TIME"], (6, 18));
        let (admin_names, admin) = (names(&admin), lines(&admin));
        for name in ["mount", "unshare", "setns", "clock_settime", "bpf"] {
            assert!(admin_names.contains(name), "{name}");
        }
        assert!(admin.contains("allow clone") && admin.contains("allow clone3") && !admin.contains("errno=38 clone3"));
        let plain = profile_for("amd64", &[], (6, 18));
        for name in
            ["mount", "unshare", "keyctl", "reboot", "chroot", "open_by_handle_at", "kexec_load", "io_uring_setup"]
        {
            assert!(!names(&plain).contains(name), "{name}");
        }
    }

    #[test]
    fn old_kernels_do_not_get_ptrace() {
        assert!(!names(&profile_for("amd64", &[], (4, 7))).contains("ptrace"));
        assert!(names(&profile_for("amd64", &["CAP_SYS_PTRACE"], (4, 7))).contains("ptrace"));
        assert!(names(&profile_for("amd64", &[], (5, 0))).contains("ptrace"));
    }

    #[test]
    fn architectures_have_their_own_calls() {
        let arm = profile_for("arm64", &[], (6, 18));
        assert!(names(&arm).contains("set_tls") && !names(&arm).contains("arch_prctl"));
        assert_eq!(arm.architectures, ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
        let s390 = profile_for("s390x", &[], (6, 18));
        assert!(lines(&s390).contains("allow clone 1 SCMP_CMP_MASKED_EQ 2114060288"));
        assert!(!lines(&s390).contains("allow clone 0 SCMP_CMP_MASKED_EQ 2114060288"));
        assert!(profile_for("ppc64le", &[], (6, 18)).architectures.is_empty());
    }
}
