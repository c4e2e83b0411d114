//! Flags that several commands have.

use super::flag::{Flag, many, one, switch};

pub(super) const BLKIO_WEIGHT: Flag = one("blkio-weight", "NUMBER", "Block I/O weight, 10 to 1000");
pub(super) const CPU_PERIOD: Flag = one("cpu-period", "MICROSECONDS", "CFS period");
pub(super) const CPU_QUOTA: Flag = one("cpu-quota", "MICROSECONDS", "CFS quota: time in each period");
pub(super) const CPU_RT_PERIOD: Flag = one("cpu-rt-period", "MICROSECONDS", "Real-time period (cgroup v1)");
pub(super) const CPU_RT_RUNTIME: Flag =
    one("cpu-rt-runtime", "MICROSECONDS", "Real-time runtime: time in each period (cgroup v1)");
pub(super) const CPU_SHARES: Flag = one("cpu-shares", "WEIGHT", "CPU weight").short('c');
pub(super) const CPUS: Flag = one("cpus", "DECIMAL", "Number of CPUs");
pub(super) const CPUSET_CPUS: Flag = one("cpuset-cpus", "LIST", "CPUs to run on (0-3, 0,1)");
pub(super) const CPUSET_MEMS: Flag = one("cpuset-mems", "LIST", "Memory nodes to use (0-3, 0,1)");
pub(super) const DETACH_KEYS: Flag = one("detach-keys", "KEYS", "Key sequence that detaches [default: ctrl-p,ctrl-q]");
pub(super) const ENV: Flag =
    many("env", "NAME[=VALUE]", "Set a variable; without a value it is taken from here").short('e');
pub(super) const ENV_FILE: Flag = many("env-file", "FILE", "Read variables from a file, one a line");
pub(super) const HEALTH_CMD: Flag = one("health-cmd", "COMMAND", "Health check");
pub(super) const HEALTH_INTERVAL: Flag = one("health-interval", "DURATION", "Time between checks");
pub(super) const HEALTH_ON_FAILURE: Flag =
    one("health-on-failure", "ACTION", "What happens when unhealthy: none, kill, restart or stop (podman's)");
pub(super) const HEALTH_RETRIES: Flag = one("health-retries", "NUMBER", "Failures until unhealthy");
pub(super) const HEALTH_START_INTERVAL: Flag =
    one("health-start-interval", "DURATION", "Time between checks at the start");
pub(super) const HEALTH_START_PERIOD: Flag = one("health-start-period", "DURATION", "Grace at the start");
pub(super) const HEALTH_TIMEOUT: Flag = one("health-timeout", "DURATION", "Time for one check");
pub(super) const INTERACTIVE: Flag = switch("interactive", "Keep standard input open").short('i');
pub(super) const LABEL: Flag = many("label", "NAME[=VALUE]", "Set a label").short('l');
pub(super) const LABEL_FILE: Flag = many("label-file", "FILE", "Read labels from a file, one a line");
pub(super) const MEMORY: Flag = one("memory", "BYTES", "Memory limit (512m, 2g)").short('m');
pub(super) const MEMORY_RESERVATION: Flag = one("memory-reservation", "BYTES", "Memory soft limit");
pub(super) const MEMORY_SWAP: Flag =
    one("memory-swap", "BYTES", "Limit of memory and swap together; -1 is no limit of swap");
pub(super) const PIDS_LIMIT: Flag = one("pids-limit", "NUMBER", "Most processes; -1 is no limit");
pub(super) const RESTART: Flag = one("restart", "POLICY", "no, on-failure[:N], always or unless-stopped");
pub(super) const SIG_PROXY: Flag = switch("sig-proxy", "Forward signals to the program [default: true]");
pub(super) const TTY: Flag = switch("tty", "Give the program a terminal").short('t');
pub(super) const USER: Flag = one("user", "USER[:GROUP]", "User and group, by name or number").short('u');
pub(super) const WORKDIR: Flag = one("workdir", "PATH", "Working directory inside").short('w');
