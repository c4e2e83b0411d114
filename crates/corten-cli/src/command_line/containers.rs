//! The commands of a container's life, with their flags.

use super::Command;
use super::flag::{Flag, many, one, switch};
use super::tables::{ANY, command};
use crate::commands::{exec, lifecycle, logs, manage, start};

const DETACH_KEYS: Flag = one("detach-keys", "KEYS", "Key sequence that detaches [default: ctrl-p,ctrl-q]");
const SIG_PROXY: Flag = switch("sig-proxy", "Forward signals to the program [default: true]");
const SIGNAL: Flag = one("signal", "SIGNAL", "Signal to send").short('s');
const TIMEOUT: Flag = one("timeout", "SECONDS", "Time until SIGKILL; -1 is for ever").short('t');
const TIME: Flag = one("time", "SECONDS", "The old name of --timeout");
const CONTAINERS: &str = "CONTAINER [CONTAINER...]";

const START_FLAGS: &[Flag] = &[
    switch("attach", "Attach output and error, and forward signals").short('a'),
    one("checkpoint", "NAME", "Restore from a checkpoint").later("it comes with checkpoints of containers"),
    one("checkpoint-dir", "DIR", "Checkpoints' place").later("it comes with checkpoints of containers"),
    DETACH_KEYS,
    switch("interactive", "Attach input").short('i'),
    SIG_PROXY,
];
const EXEC_FLAGS: &[Flag] = &[
    switch("detach", "Run in the background").short('d'),
    DETACH_KEYS,
    many("env", "NAME[=VALUE]", "Set a variable; without a value it is taken from here").short('e'),
    many("env-file", "FILE", "Read variables from a file, one a line"),
    switch("interactive", "Keep standard input open").short('i'),
    switch("privileged", "Every capability"),
    switch("tty", "Give the program a terminal").short('t'),
    one("user", "USER[:GROUP]", "User and group, by name or number").short('u'),
    one("workdir", "PATH", "Working directory inside").short('w'),
];
const LOGS_FLAGS: &[Flag] = &[
    switch("details", "Show labels and variables that the log keeps"),
    switch("follow", "Go on until the container has ended").short('f'),
    one("since", "TIME", "Not before: 2026-01-02T15:04:05Z, 1767323045, or 10m ago"),
    one("tail", "NUMBER", "The last lines alone [default: all]").short('n'),
    switch("timestamps", "Show times").short('t'),
    one("until", "TIME", "Not after"),
];

const LIMITS: &str = "it comes with the remaining cgroup limits; `-m`, `--cpus` and `--pids-limit` work";
const UPDATE_FLAGS: &[Flag] = &[
    one("blkio-weight", "NUMBER", "Block I/O weight").later_unless(&["0"], LIMITS),
    one("cpu-period", "MICROSECONDS", "CFS period").later("use `--cpus`"),
    one("cpu-quota", "MICROSECONDS", "CFS quota").later("use `--cpus`"),
    one("cpu-rt-period", "MICROSECONDS", "Real-time period").later(LIMITS),
    one("cpu-rt-runtime", "MICROSECONDS", "Real-time runtime").later(LIMITS),
    one("cpu-shares", "WEIGHT", "CPU weight").short('c'),
    one("cpus", "DECIMAL", "Number of CPUs"),
    one("cpuset-cpus", "LIST", "CPUs to run on (0-3, 0,1)"),
    one("cpuset-mems", "LIST", "Memory nodes to use (0-3, 0,1)"),
    many("env", "NAME=VALUE", "Set a variable at the next start (Corten's own)").short('e'),
    many("env-file", "FILE", "Read variables from a file, one a line (Corten's own)"),
    one("health-cmd", "COMMAND", "Health check (Corten's own, as all of health)"),
    one("health-interval", "DURATION", "Time between checks"),
    one("health-on-failure", "ACTION", "What happens when unhealthy: none, kill, restart or stop"),
    one("health-retries", "NUMBER", "Failures until unhealthy"),
    one("health-start-interval", "DURATION", "Time between checks at the start"),
    one("health-start-period", "DURATION", "Grace at the start"),
    one("health-timeout", "DURATION", "Time for one check"),
    many("label", "NAME[=VALUE]", "Set a label (Corten's own)").short('l'),
    many("label-file", "FILE", "Read labels from a file, one a line (Corten's own)"),
    one("memory", "BYTES", "Memory limit (512m, 2g)").short('m'),
    one("memory-reservation", "BYTES", "Memory soft limit"),
    one("memory-swap", "BYTES", "Limit of memory and swap together; -1 is no limit of swap"),
    switch("no-healthcheck", "No health check any more"),
    one("pids-limit", "NUMBER", "Most processes; -1 is no limit"),
    one("restart", "POLICY", "no, on-failure[:N], always or unless-stopped"),
];
const FILTER: Flag = many("filter", "NAME=VALUE", "Only what matches").short('f');

pub(super) const EXEC: Command = Command {
    operands: "CONTAINER COMMAND [ARG...]",
    arity: (2, ANY),
    ends_at_operand: true,
    flags: EXEC_FLAGS,
    notes: "The exit code is the program's; 126 says that it cannot be executed, 127 that there is none.",
    ..command(&["exec"], "Run one more program in a running container", exec::run)
};
pub(super) const START: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    flags: START_FLAGS,
    ..command(&["start"], "Start containers", start::start)
};
pub(super) const ATTACH: Command = Command {
    operands: "CONTAINER",
    arity: (1, 1),
    flags: &[DETACH_KEYS, switch("no-stdin", "Do not attach input"), SIG_PROXY],
    ..command(&["attach"], "Attach to a running container", start::attach)
};
pub(super) const STOP: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    flags: &[SIGNAL, TIMEOUT, TIME],
    ..command(&["stop"], "Stop containers: a signal, later SIGKILL", lifecycle::stop)
};
pub(super) const RESTART: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    flags: &[SIGNAL, TIMEOUT, TIME],
    ..command(&["restart"], "Stop and start containers", lifecycle::restart)
};
pub(super) const KILL: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    flags: &[SIGNAL],
    ..command(&["kill"], "Send a signal to containers [default: KILL]", lifecycle::kill)
};
pub(super) const PAUSE: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    ..command(&["pause"], "Freeze every process of containers", lifecycle::pause)
};
pub(super) const UNPAUSE: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    ..command(&["unpause"], "Thaw every process of containers", lifecycle::unpause)
};
pub(super) const WAIT: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    ..command(&["wait"], "Wait until containers have ended and print their exit codes", lifecycle::wait)
};
pub(super) const RENAME: Command = Command {
    operands: "CONTAINER NEW_NAME",
    arity: (2, 2),
    ..command(&["rename"], "Give a container another name", lifecycle::rename)
};
pub(super) const LOGS: Command = Command {
    operands: "CONTAINER",
    arity: (1, 1),
    flags: LOGS_FLAGS,
    ..command(&["logs"], "Show what a container printed", logs::run)
};
pub(super) const BOOT: Command = Command {
    notes: "Called once after the machine's start: always, unless-stopped and on-failure containers come up again.",
    ..command(&["boot"], "Start what the restart policies ask for", lifecycle::boot)
};
pub(super) const UPDATE: Command = Command {
    operands: CONTAINERS,
    arity: (1, ANY),
    flags: UPDATE_FLAGS,
    notes: "Limits, policies, checks and labels change at once; what waits for the next start is said.",
    ..command(&["update"], "Change containers", manage::update)
};
pub(super) const TOP: Command = Command {
    operands: "CONTAINER [PS OPTIONS]",
    arity: (1, ANY),
    ends_at_operand: true,
    ..command(&["top"], "Show the processes of a container", manage::top)
};
pub(super) const PRUNE: Command = Command {
    flags: &[many("filter", "NAME=VALUE", "label, label!, until"), switch("force", "Do not ask").short('f')],
    ..command(&["container", "prune"], "Remove every stopped container", manage::prune)
};
pub(super) const EVENTS: Command = Command {
    flags: &[
        FILTER,
        one("format", "FORMAT", "json or a Go template"),
        one("since", "TIME", "Not before; without it from now on"),
        one("until", "TIME", "Not after"),
    ],
    ..command(&["events"], "Show what happens to containers", manage::events)
};
