//! Every command with its flags: read by the parser, rendered by the help.

use std::ffi::OsStr;

use corten_types::{Error, Result};

use super::arguments::{Arguments, Flag, Order};
use super::{Context, checkpoint, events, exec, features, lifecycle, list, ps, spec, update};

/// One command.
pub(super) struct Command {
    pub name: &'static str,
    pub summary: &'static str,
    pub operands: &'static str,
    /// Least and most operands.
    pub count: (usize, usize),
    pub details: &'static str,
    pub order: Order,
    pub flags: &'static [Flag],
    /// Exit code of a failure.
    pub failure: u8,
    pub run: fn(&Context<'_>, &Arguments) -> Result<u8>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Command {
    const fn new(
        name: &'static str,
        summary: &'static str,
        flags: &'static [Flag],
        run: fn(&Context<'_>, &Arguments) -> Result<u8>,
    ) -> Self {
        let operands = "<container-id>";
        Self { name, summary, operands, count: (1, 1), details: "", order: Order::Mixed, flags, failure: 1, run }
    }

    /// Whether the number of operands fits.
    pub(super) fn check_count(&self, program: &str, given: usize) -> Result<()> {
        let (least, most) = self.count;
        let name = self.name;
        let wanted = match () {
            () if least == most && given != least => format!("exactly {least}"),
            () if given < least => format!("a minimum of {least}"),
            () if given > most => format!("a maximum of {most}"),
            () => return Ok(()),
        };
        Err(Error::invalid(format!("{program}: \"{name}\" requires {wanted} argument(s)")))
    }
}

/// The command of that name.
pub(super) fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| name == command.name)
}

/// Flags before the command.
pub(super) static GLOBALS: &[Flag] = &[
    Flag::switch("debug", "log more"),
    Flag::text("log", "file to append log messages to (default: standard error)"),
    Flag::text("log-format", "form of the log messages: `text` or `json`").default("text"),
    Flag::text("log-level", "least level that is logged: `error`, `warning`, `info` or `debug`").default("info"),
    Flag::text("root", "directory that holds the containers' state; best on a tmpfs").default("/run/corten/runtime"),
    Flag::text("criu", "checkpoint program").default("criu"),
    Flag::switch("systemd-cgroup", "let systemd make the cgroups; cgroupsPath is then `slice:prefix:name`"),
    Flag::text("cgroup-manager", "who makes the cgroups: `cgroupfs` or `systemd`").default("cgroupfs"),
    Flag::text("rootless", "tolerate cgroup permission errors: `true`, `false` or `auto`").default("auto"),
    Flag::switch("help", "show this help").short('h'),
    Flag::switch("version", "show the version").short('v'),
];

/// What every command understands; not shown.
pub(super) static COMMAND_HELP: &[Flag] = &[Flag::switch("help", "").short('h')];

const BUNDLE: Flag = Flag::text("bundle", "bundle directory (default: the working directory)").short('b');
const CONSOLE_SOCKET: Flag = Flag::text("console-socket", "unix socket that receives the terminal's main side");
const PIDFD_SOCKET: Flag = Flag::text("pidfd-socket", "unix socket that receives a pidfd of the process");
const PID_FILE: Flag = Flag::text("pid-file", "file that receives the process id");
const NO_PIVOT: Flag = Flag::switch("no-pivot", "enter the root without pivot_root, for a root on a ramdisk");
const NO_NEW_KEYRING: Flag = Flag::switch("no-new-keyring", "keep the caller's session keyring");
const PRESERVE_FDS: Flag = Flag::number("preserve-fds", "descriptors after $LISTEN_FDS that the process keeps");
const DETACH: Flag = Flag::switch("detach", "do not wait for the process").short('d');
const NO_SUBREAPER: Flag = Flag::switch("no-subreaper", "do not adopt orphans of the container");
const FORMAT: Flag = Flag::text("format", "`table` or `json`").short('f').default("table");

/// The commands, in the help's order.
pub(super) static COMMANDS: &[Command] = &[
    Command {
        details: "Saves the processes of a running container through criu; the container ends unless --leave-running.",
        ..Command::new("checkpoint", "checkpoint a running container", checkpoint::DUMP_FLAGS, checkpoint::checkpoint)
    },
    Command {
        details: "Makes the container of a bundle (a directory with config.json) and its process, which waits for `start`.",
        ..Command::new(
            "create",
            "create a container",
            &[BUNDLE, CONSOLE_SOCKET, PIDFD_SOCKET, PID_FILE, NO_PIVOT, NO_NEW_KEYRING, PRESERVE_FDS],
            lifecycle::create,
        )
    },
    Command::new(
        "delete",
        "delete a container and everything it holds",
        &[Flag::switch("force", "kill it first where it runs; no error where it does not exist").short('f')],
        lifecycle::delete,
    ),
    Command::new(
        "events",
        "show out-of-memory events and usage statistics",
        &[
            Flag::text("interval", "time between statistics").default("5s"),
            Flag::switch("stats", "show the statistics once, then exit"),
        ],
        events::events,
    ),
    Command {
        operands: "<container-id> <command> [arguments]  || -p process.json <container-id>",
        count: (1, usize::MAX),
        order: Order::OperandEnds,
        failure: 255,
        ..Command::new("exec", "run another process in a container", EXEC_FLAGS, exec::exec)
    },
    Command {
        operands: "<container-id> [signal]",
        count: (1, 2),
        order: Order::OperandEnds,
        details: "The signal is a number or a name, with or without SIG; without one it is SIGTERM.",
        ..Command::new(
            "kill",
            "send a signal to the container's first process",
            &[Flag::switch("all", "signal every process of the container").short('a')],
            lifecycle::kill,
        )
    },
    Command {
        operands: "",
        count: (0, 0),
        ..Command::new(
            "list",
            "list the containers under the root",
            &[FORMAT, Flag::switch("quiet", "show ids only").short('q')],
            list::list,
        )
    },
    Command::new("pause", "freeze every process of a container", &[], lifecycle::pause),
    Command {
        operands: "<container-id> [ps options]",
        count: (1, usize::MAX),
        order: Order::OperandEnds,
        ..Command::new("ps", "show the processes of a container", &[FORMAT], ps::ps)
    },
    Command::new("restore", "restore a container from a checkpoint", checkpoint::RESTORE_FLAGS, checkpoint::restore),
    Command::new("resume", "thaw a paused container", &[], lifecycle::resume),
    Command {
        details: "Makes the container of a bundle (a directory with config.json), starts it, waits, and deletes it.",
        ..Command::new(
            "run",
            "create and start a container",
            &[
                BUNDLE,
                CONSOLE_SOCKET,
                PIDFD_SOCKET,
                DETACH,
                Flag::switch("keep", "do not delete the container when it ends"),
                PID_FILE,
                NO_SUBREAPER,
                NO_PIVOT,
                NO_NEW_KEYRING,
                PRESERVE_FDS,
            ],
            lifecycle::run,
        )
    },
    Command {
        operands: "",
        count: (0, 0),
        details: "Writes a config.json to start from into the bundle; an existing one is not touched.",
        ..Command::new(
            "spec",
            "write a new config.json",
            &[BUNDLE, Flag::switch("rootless", "for a user who is not root")],
            spec::spec,
        )
    },
    Command::new("start", "start the process of a created container", &[], lifecycle::start),
    Command::new("state", "show the state of a container", &[], list::state),
    Command::new("update", "change the limits of a container", update::FLAGS, update::update),
    Command {
        operands: "",
        count: (0, 0),
        details: "The document is that of the runtime specification's features.md.",
        ..Command::new("features", "show what this runtime implements", &[], features::features)
    },
];

static EXEC_FLAGS: &[Flag] = &[
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    Flag::text("cwd", "working directory in the container"),
    Flag::list("env", "environment variable, NAME=VALUE").short('e'),
    Flag::switch("tty", "allocate a terminal").short('t'),
    Flag::text("user", "<uid>[:<gid>]").short('u'),
    Flag::list("additional-gids", "additional group").short('g'),
    Flag::text("process", "file with the whole process document").short('p'),
    DETACH,
    PID_FILE,
    Flag::text("process-label", "SELinux label of the process"),
    Flag::text("apparmor", "AppArmor profile of the process"),
    Flag::switch("no-new-privs", "set no_new_privs"),
    Flag::list("cap", "capability to add").short('c'),
    PRESERVE_FDS,
    Flag::list("cgroup", "existing cgroup below the container's, [<controller>:]<cgroup>"),
    Flag::switch("ignore-paused", "start even in a paused container"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_commands_and_flags_are_unique() {
        for (at, command) in COMMANDS.iter().enumerate() {
            assert!(COMMANDS[..at].iter().all(|other| other.name != command.name));
            let flags: Vec<_> = command.flags.iter().chain(COMMAND_HELP).collect();
            for (at, flag) in flags.iter().enumerate() {
                assert!(flags[..at].iter().all(|other| other.long != flag.long), "{} --{}", command.name, flag.long);
                assert!(flags[..at].iter().all(|other| flag.short.is_none() || other.short != flag.short));
            }
        }
    }

    #[test]
    fn the_number_of_operands_is_checked_in_runcs_words() {
        let message = |name: &str, given| {
            find(name.as_ref()).unwrap().check_count("corten-runtime", given).unwrap_err().message().to_owned()
        };
        assert_eq!(message("start", 2), "corten-runtime: \"start\" requires exactly 1 argument(s)");
        assert_eq!(message("kill", 0), "corten-runtime: \"kill\" requires a minimum of 1 argument(s)");
        assert_eq!(message("kill", 3), "corten-runtime: \"kill\" requires a maximum of 2 argument(s)");
    }
}
