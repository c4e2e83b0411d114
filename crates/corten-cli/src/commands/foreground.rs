//! Being attached: the caller's streams, its terminal in raw mode, its signals, until the program ends or the keys are typed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_engine::{Attach, Console, DetachKeys, Parted, Running, Signals};
use corten_types::{Context as _, Error, Result};

use crate::terminal::{RawMode, is_terminal};

/// Exit code of a command that detached.
const DETACHED: u8 = 0;

/// What the caller takes part in.
#[derive(Debug, Clone)]
pub(crate) struct Foreground {
    /// Which streams.
    pub(crate) wanted: Attach,
    /// Signals go to the program.
    pub(crate) proxies_signals: bool,
    /// The keys that detach.
    pub(crate) detach_keys: DetachKeys,
}

impl Foreground {
    /// The caller's signals; taken before the program starts, so that none falls between.
    pub(crate) fn signals(&self, has_terminal: bool) -> Result<Option<Signals>> {
        match (self.proxies_signals, has_terminal) {
            (true, _) => Signals::watch().map(Some),
            (false, true) => Signals::watch_size().map(Some),
            (false, false) => Ok(None),
        }
    }

    /// Stays to the end; the exit code.
    pub(crate) fn stay(&self, running: Running, signals: Option<&Signals>) -> Result<u8> {
        let stdin = rustix::stdio::stdin();
        let has_terminal = running.has_terminal();
        let raw =
            (has_terminal && self.wanted.stdin && is_terminal(stdin)).then(|| RawMode::enter(stdin)).transpose()?;
        let console = Console {
            input: self.wanted.stdin.then_some(stdin),
            output: rustix::stdio::stdout(),
            error: rustix::stdio::stderr(),
            detach_keys: self.detach_keys.clone(),
        };
        if has_terminal {
            running.resize(console.output);
        }
        let parted = running.attach(Some(&console), signals);
        drop(raw);
        Ok(match parted? {
            Parted::Exited(exit) => exit.code,
            Parted::Detached => DETACHED,
        })
    }
}

/// Descriptors that a program inherits; without `-i` its input is empty.
pub(crate) fn streams(is_interactive: bool) -> Result<[OwnedFd; 3]> {
    let duplicate = |descriptor: BorrowedFd<'_>| {
        descriptor.try_clone_to_owned().context(|| "cannot duplicate a standard descriptor")
    };
    let input = if is_interactive {
        duplicate(rustix::stdio::stdin())?
    } else {
        File::open("/dev/null").context(|| "cannot open `/dev/null`")?.into()
    };
    Ok([input, duplicate(rustix::stdio::stdout())?, duplicate(rustix::stdio::stderr().as_fd())?])
}

/// Refuses a terminal for the program where the caller has none to give.
pub(crate) fn check_terminal(has_terminal: bool, is_interactive: bool) -> Result<()> {
    if has_terminal && is_interactive && !is_terminal(rustix::stdio::stdin()) {
        return Err(
            Error::invalid("the input device is not a TTY").hint("leave out `-t` where the input is not a terminal")
        );
    }
    Ok(())
}
