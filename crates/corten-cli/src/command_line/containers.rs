//! The commands of a container's life, with their flags.

use super::Command;
use super::flag::{Flag, many, one, switch};
use super::rows;
use super::tables::{ANY, command};
use crate::commands::{exec, generate, lifecycle, logs, manage, start, stats, why};

const SIGNAL: Flag = one("signal", "SIGNAL", "Signal to send").short('s');
const TIMEOUT: Flag = one("timeout", "SECONDS", "Time until SIGKILL; -1 is for ever").short('t');
const TIME: Flag = one("time", "SECONDS", "The old name of --timeout");
const CONTAINERS: &str = "CONTAINER [CONTAINER...]";

const START_FLAGS: &[Flag] = &[
    switch("attach", "Attach output and error, and forward signals").short('a'),
    one("checkpoint", "NAME", "Restore from a checkpoint").later("it comes with checkpoints of containers"),
    one("checkpoint-dir", "DIR", "Checkpoints' place").later("it comes with checkpoints of containers"),
    rows::DETACH_KEYS,
    switch("interactive", "Attach input").short('i'),
    rows::SIG_PROXY,
];
const EXEC_FLAGS: &[Flag] = &[
    switch("detach", "Run in the background").short('d'),
    rows::DETACH_KEYS,
    rows::ENV,
    rows::ENV_FILE,
    rows::INTERACTIVE,
    switch("privileged", "Every capability"),
    rows::TTY,
    rows::USER,
    rows::WORKDIR,
];
const LOGS_FLAGS: &[Flag] = &[
    switch("details", "Show labels and variables that the log keeps"),
    switch("follow", "Go on until the container has ended").short('f'),
    one("since", "TIME", "Not before: 2026-01-02T15:04:05Z, 1767323045, or 10m ago"),
    one("tail", "NUMBER", "The last lines alone [default: all]").short('n'),
    switch("timestamps", "Show times").short('t'),
    one("until", "TIME", "Not after"),
];

const UPDATE_FLAGS: &[Flag] = &[
    rows::BLKIO_WEIGHT,
    rows::CPU_PERIOD,
    rows::CPU_QUOTA,
    rows::CPU_RT_PERIOD,
    rows::CPU_RT_RUNTIME,
    rows::CPU_SHARES,
    rows::CPUS,
    rows::CPUSET_CPUS,
    rows::CPUSET_MEMS,
    rows::ENV,
    rows::ENV_FILE,
    rows::HEALTH_CMD,
    rows::HEALTH_INTERVAL,
    rows::HEALTH_ON_FAILURE,
    rows::HEALTH_RETRIES,
    rows::HEALTH_START_INTERVAL,
    rows::HEALTH_START_PERIOD,
    rows::HEALTH_TIMEOUT,
    rows::LABEL,
    rows::LABEL_FILE,
    rows::MEMORY,
    rows::MEMORY_RESERVATION,
    rows::MEMORY_SWAP,
    switch("no-healthcheck", "No health check any more"),
    rows::PIDS_LIMIT,
    rows::RESTART,
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
    flags: &[rows::DETACH_KEYS, switch("no-stdin", "Do not attach input"), rows::SIG_PROXY],
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
    notes: "\
Limits, policies, checks and labels change at once; what waits for the next start is said.
--env, --env-file, --label, --label-file, --health-… and --no-healthcheck are Corten's own.",
    ..command(&["update"], "Change containers", manage::update)
};
pub(super) const TOP: Command = Command {
    operands: "[CONTAINER [PS OPTIONS]]",
    arity: (0, ANY),
    ends_at_operand: true,
    notes: "\
Without a container every running one is shown in the terminal: CPU, memory, I/O and network as sparklines (Corten's own).
Keys: j and k choose, l shows the log, s starts a shell inside, q quits.",
    ..command(&["top"], "Show the processes of a container, or what all containers use", manage::top)
};
pub(super) const STATS: Command = Command {
    operands: "[CONTAINER...]",
    arity: (0, ANY),
    flags: &[
        switch("all", "Show containers that do not run too").short('a'),
        one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
        switch("no-stream", "Show one sample and end"),
        switch("no-trunc", "Show whole ids"),
    ],
    ..command(&["stats"], "Show what containers use", stats::run)
};
pub(super) const PORT: Command = Command {
    operands: "CONTAINER [PORT[/PROTOCOL]]",
    arity: (1, 2),
    ..command(&["port"], "Show the published ports of a container", stats::port)
};
pub(super) const WHY: Command = Command {
    operands: "CONTAINER",
    arity: (1, 1),
    flags: &[one("format", "FORMAT", "json or a Go template")],
    notes: "Also of a container that was removed, as long as the event log knows it.",
    ..command(&["why"], "Tell why a container is as it is: what happened, and who or what did it", why::run)
};
pub(super) const USAGE: Command = Command {
    operands: "[CONTAINER...]",
    arity: (0, ANY),
    flags: &[
        one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
        many("label", "NAME[=VALUE]", "Only containers with this label").short('l'),
    ],
    notes: "\
All runs of a container together, also of one that was removed. GB-HOURS is memory over time; FAILURES counts how often a
limit was hit.",
    ..command(&["usage"], "Show what containers have used since they were created", stats::usage)
};
pub(super) const GENERATE_SYSTEMD: Command = Command {
    flags: &[one("name", "CONTAINER", "A unit for this container alone")],
    notes: "Without --name the unit calls `corten boot`: corten generate systemd >/etc/systemd/system/corten.service",
    ..command(&["generate", "systemd"], "Print a unit of systemd that starts containers", generate::systemd)
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
