//! The flags of `run` and `create`: docker's, each here or refused by name with the reason.

use crate::command_line::flag::{Flag, many, one, switch};
use crate::command_line::rows;

const NETWORKS: &str = "it comes with networks; use `--network none` or `--network host`";
const VOLUMES: &str = "it comes with volumes; bind a directory with `-v DIR:DIR`";
const WINDOWS: &str = "it is for containers of Windows";

/// Docker 28's flags of `run`, and ours: `--rootfs`.
pub(in crate::command_line) const RUN: &[Flag] = &[
    many("add-host", "HOST:IP", "Add a host to /etc/hosts").later(NETWORKS),
    many("annotation", "NAME=VALUE", "Annotation of the runtime's configuration"),
    many("attach", "STREAM", "Attach to stdin, stdout or stderr").short('a'),
    rows::BLKIO_WEIGHT,
    many("blkio-weight-device", "DEVICE:WEIGHT", "Block I/O weight of a device"),
    many("cap-add", "CAPABILITY", "Add a capability; `ALL` is every one"),
    many("cap-drop", "CAPABILITY", "Drop a capability; `ALL` is every one"),
    one("cgroup-parent", "CGROUP", "Cgroup below which the container's lies [default: /corten]"),
    one("cgroupns", "MODE", "Cgroup namespace: host or private [default: private with cgroup v2]"),
    one("cidfile", "FILE", "Write the container's id to a file, which must not exist"),
    one("cpu-count", "NUMBER", "CPU count").never(WINDOWS),
    one("cpu-percent", "NUMBER", "CPU percent").never(WINDOWS),
    rows::CPU_PERIOD,
    rows::CPU_QUOTA,
    rows::CPU_RT_PERIOD,
    rows::CPU_RT_RUNTIME,
    rows::CPU_SHARES,
    rows::CPUS,
    rows::CPUSET_CPUS,
    rows::CPUSET_MEMS,
    switch("detach", "Run in the background and print the container's id").short('d'),
    rows::DETACH_KEYS,
    many("device", "PATH[:PATH][:rwm]", "Show a device of the host inside, or a CDI device: VENDOR/CLASS=NAME"),
    many("device-cgroup-rule", "RULE", "Allow devices that come later: `c 42:* rmw`"),
    many("device-read-bps", "DEVICE:RATE", "Most bytes read a second (1mb)"),
    many("device-read-iops", "DEVICE:RATE", "Most reads a second"),
    many("device-write-bps", "DEVICE:RATE", "Most bytes written a second (1mb)"),
    many("device-write-iops", "DEVICE:RATE", "Most writes a second"),
    switch("disable-content-trust", "Skip image verification")
        .later_unless(&["true", "1", "t", "T", "TRUE", "True"], "every blob's digest is verified"),
    many("dns", "ADDRESS", "DNS server").later(NETWORKS),
    many("dns-option", "OPTION", "DNS option").alias(&["dns-opt"]).later(NETWORKS),
    many("dns-search", "DOMAIN", "DNS search domain").later(NETWORKS),
    one("domainname", "NAME", "NIS domain name"),
    one("entrypoint", "PROGRAM", "Replace the image's entry point; an empty one removes it"),
    rows::ENV,
    rows::ENV_FILE,
    many("expose", "PORT", "Expose a port").later(NETWORKS),
    one("gpus", "REQUEST", "GPUs by CDI: all, a number, or device=NAME,…"),
    many("group-add", "GROUP", "Add a supplementary group"),
    rows::HEALTH_CMD,
    rows::HEALTH_INTERVAL,
    rows::HEALTH_ON_FAILURE,
    rows::HEALTH_RETRIES,
    rows::HEALTH_START_INTERVAL,
    rows::HEALTH_START_PERIOD,
    rows::HEALTH_TIMEOUT,
    one("hostname", "NAME", "Host name inside").short('h'),
    switch("init", "Run a small pid 1 that forwards signals and reaps processes"),
    rows::INTERACTIVE,
    one("io-maxbandwidth", "BYTES", "I/O bandwidth").never(WINDOWS),
    one("io-maxiops", "NUMBER", "I/O operations").never(WINDOWS),
    one("ip", "ADDRESS", "IPv4 address").later(NETWORKS),
    one("ip6", "ADDRESS", "IPv6 address").later(NETWORKS),
    one("ipc", "MODE", "IPC namespace: private, shareable, none, host or container:NAME"),
    one("isolation", "TECHNOLOGY", "Isolation technology").never_unless(&["", "default"], WINDOWS),
    one("kernel-memory", "BYTES", "Kernel memory limit").never("the kernel has no such limit any more; use `-m`"),
    rows::LABEL,
    rows::LABEL_FILE,
    many("link", "CONTAINER", "Link to a container").later(NETWORKS),
    many("link-local-ip", "ADDRESS", "Link-local address").later(NETWORKS),
    one("log-driver", "DRIVER", "Log driver: json-file, local, k8s-file, journald, syslog or none"),
    many("log-opt", "NAME=VALUE", "Log option: max-size, max-file, compress, labels, env, tag, mode, …"),
    one("mac-address", "ADDRESS", "MAC address").later(NETWORKS),
    rows::MEMORY,
    rows::MEMORY_RESERVATION,
    rows::MEMORY_SWAP,
    one("memory-swappiness", "PERCENT", "Swappiness, 0 to 100 (cgroup v1)"),
    many("mount", "MOUNT", "Attach a mount: type=bind|tmpfs,src=PATH,dst=PATH,readonly,…"),
    one("name", "NAME", "Name of the container"),
    many("network", "NETWORK", "Network: none or host").alias(&["net"]),
    many("network-alias", "NAME", "Name on the network").alias(&["net-alias"]).later(NETWORKS),
    switch("no-healthcheck", "Run no health check of the image"),
    switch("oom-kill-disable", "Let the program wait for memory instead of killing it (cgroup v1)"),
    one("oom-score-adj", "NUMBER", "OOM score adjustment (-1000 to 1000)"),
    one("pid", "MODE", "PID namespace: host or container:NAME"),
    rows::PIDS_LIMIT,
    one("platform", "OS/ARCH[/VARIANT]", "Run the image of this platform"),
    switch("privileged", "Every capability and device, no filter of system calls, no masked paths"),
    many("publish", "PORT", "Publish a port").short('p').later(NETWORKS),
    switch("publish-all", "Publish all exposed ports").short('P').later(NETWORKS),
    one("pull", "POLICY", "missing, always or never"),
    switch("quiet", "Print no progress").short('q'),
    switch("read-only", "Mount the root file system read-only"),
    rows::RESTART,
    one("restart-delay", "FIRST[:LONGEST]", "Waits before another start, doubling [default: 100ms:1m] (Corten's own)"),
    switch("rm", "Remove the container once it has ended"),
    switch("rootfs", "The first operand is a directory that is the root, not an image (Corten's own)"),
    one("runtime", "NAME", "OCI runtime").never_unless(&["", "corten"], "containers run in Corten's own runtime"),
    many(
        "security-opt",
        "OPTION",
        "no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=…, systempaths=unconfined",
    ),
    one("shm-size", "BYTES", "Size of /dev/shm [default: 64m]"),
    rows::SIG_PROXY,
    one("stop-signal", "SIGNAL", "Signal that asks the program to end"),
    one("stop-timeout", "SECONDS", "Time between the stop signal and SIGKILL [default: 10]"),
    many("storage-opt", "OPTION", "Storage option").later(
        "a size of the container's own layer needs project quotas of the file system, which Corten does not set yet",
    ),
    many("sysctl", "NAME=VALUE", "Set a namespaced kernel parameter"),
    super::TLS_VERIFY,
    many("tmpfs", "PATH[:OPTIONS]", "Mount a tmpfs"),
    rows::TTY,
    many("ulimit", "NAME=SOFT[:HARD]", "Limit of each process"),
    switch("use-api-socket", "Show docker's socket inside").never("there is no daemon whose socket it could be"),
    rows::USER,
    one("userns", "MODE", "User namespace: host"),
    one("uts", "MODE", "UTS namespace: host or container:NAME"),
    many("volume", "HOST:INSIDE[:OPTIONS]", "Bind a file or directory").short('v'),
    one("volume-driver", "DRIVER", "Volume driver").later_unless(&["", "local"], VOLUMES),
    many("volumes-from", "CONTAINER[:ro]", "Mount what another container has mounted from the host"),
    rows::WORKDIR,
];

/// What `run` has and `create` has not: the flags of being in the foreground.
const FOREGROUND: [&str; 3] = ["detach", "detach-keys", "sig-proxy"];
pub(in crate::command_line) const CREATE: [Flag; RUN.len() - FOREGROUND.len()] = {
    let mut flags = [RUN[0]; RUN.len() - FOREGROUND.len()];
    let (mut from, mut to) = (0, 0);
    while from < RUN.len() {
        let name = RUN[from].long;
        if !(is(name, FOREGROUND[0]) || is(name, FOREGROUND[1]) || is(name, FOREGROUND[2])) {
            flags[to] = RUN[from];
            to += 1;
        }
        from += 1;
    }
    flags
};

const fn is(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::flag::Status;
    use crate::command_line::render::reference_pages;

    /// `docker run --help` of docker 28, every long flag.
    const DOCKERS: &str = "add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent \
        cgroupns cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus \
        cpuset-cpus cpuset-mems detach detach-keys device device-cgroup-rule device-read-bps device-read-iops \
        device-write-bps device-write-iops disable-content-trust dns dns-option dns-search domainname entrypoint env \
        env-file expose gpus group-add health-cmd health-interval health-retries health-start-interval \
        health-start-period health-timeout hostname init interactive io-maxbandwidth io-maxiops ip ip6 ipc isolation \
        kernel-memory label label-file link link-local-ip log-driver log-opt mac-address memory memory-reservation \
        memory-swap memory-swappiness mount name network network-alias no-healthcheck oom-kill-disable oom-score-adj \
        pid pids-limit platform privileged publish publish-all pull quiet read-only restart rm runtime security-opt \
        shm-size sig-proxy stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit use-api-socket user userns uts \
        volume volume-driver volumes-from workdir";

    #[test]
    fn every_flag_of_docker_run_works_or_is_refused_by_name_with_the_reason() {
        let page = |name: &str| {
            let pages = reference_pages();
            pages.into_iter().find(|(file, _)| file == name).map(|(_, text)| text).unwrap()
        };
        for (flags, page, left_out) in
            [(RUN, page("corten-run.md"), &[][..]), (&CREATE, page("corten-create.md"), &FOREGROUND)]
        {
            for name in DOCKERS.split_whitespace().filter(|name| !left_out.contains(name)) {
                let flag = flags.iter().find(|flag| flag.long == name).unwrap_or_else(|| panic!("--{name} is unknown"));
                let row = page.lines().find(|line| line.contains(&format!("--{name}`")));
                let row = row.unwrap_or_else(|| panic!("--{name} is not in the reference"));
                if let Status::Refused { reason, .. } = flag.status {
                    assert!(!reason.is_empty() && row.contains(&reason.replace('|', "\\|")), "{row}");
                }
            }
        }
    }
}
