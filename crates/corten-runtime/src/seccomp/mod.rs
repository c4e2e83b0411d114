//! System call filters: a profile of `config.json` becomes a classic BPF program, checked before the clone and loaded after it.
//!
//! [`compile`] runs in the parent and finds every fault of the profile; [`Filter::load`] is one system call in the child.
//!
//! ```text
//! profile.rs        words of the profile -> Profile, or the field that is wrong
//! architecture.rs   tokens, byte orders, and numbers (numbers.rs, generated)
//! compile.rs        Profile -> ranges of numbers and their decisions
//! program.rs        ranges -> instructions
//! listener.rs       the notify descriptor -> the agent
//! ```

mod architecture;
mod compile;
mod listener;
mod numbers;
mod profile;
mod program;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::launcher::Carried;
use corten_sys::seccomp::{Instruction, NEW_LISTENER};
use corten_types::runtime_spec::Seccomp;
use corten_types::{Error, Result};
use rustix::io::Errno;

use self::architecture::Architecture;
use self::profile::Profile;

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program for every architecture of the profile.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`, without NEW_LISTENER.
    pub flags: u32,
    /// Those of `flags` that the profile did not ask for: left out where the kernel does not know them.
    pub optional_flags: u32,
    /// Whether a rule notifies: [`Filter::load`] then gives the descriptor that belongs to the listener.
    pub notify: bool,
}

/// Compiles the profile for this machine; an error names the field (`linux.seccomp.syscalls[3].args[0].index`).
///
/// `None` where the profile asks for nothing: no default action and no rules, as runc reads it.
///
/// Docker's profile takes some tens of microseconds, so filters are not kept: a cache would cost as much to read.
pub fn compile(seccomp: &Seccomp) -> Result<Option<Filter>> {
    compile_for(seccomp, architecture::native())
}

fn compile_for(seccomp: &Seccomp, native: &'static Architecture) -> Result<Option<Filter>> {
    if seccomp.default_action.is_empty() && seccomp.syscalls.is_empty() {
        return Ok(None);
    }
    let profile = Profile::check(seccomp, native)?;
    let program = compile::program(&profile)?;
    Ok(Some(Filter { program, flags: profile.flags, optional_flags: profile.optional_flags, notify: profile.notify }))
}

/// Whether the profile lets every execveat(2) pass: by its default, or by a rule without conditions.
pub(crate) fn allows_execveat(seccomp: &Seccomp) -> bool {
    let mut rules = seccomp.syscalls.iter().filter(|rule| rule.names.iter().any(|name| name == "execveat")).peekable();
    if rules.peek().is_none() {
        return matches!(seccomp.default_action.as_str(), "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG");
    }
    rules.all(|rule| rule.args.is_empty() && matches!(rule.action.as_str(), "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG"))
}

impl Filter {
    /// The filter for the launcher to load; without a listener, whose descriptor it could not pass on.
    pub(crate) fn carried(&self) -> Carried<'_> {
        Carried { program: &self.program, flags: self.flags, fallback_flags: self.flags & !self.optional_flags }
    }

    /// What the kernel is asked for.
    pub(crate) fn all_flags(&self) -> u32 {
        self.flags | if self.notify { NEW_LISTENER } else { 0 }
    }

    /// Puts before the program that this very process may execute the file behind descriptor `fd`: a profile that knows
    /// execve alone would otherwise not let the launcher be started under it.
    pub(crate) fn let_execute(&mut self, fd: BorrowedFd<'_>) {
        let native = architecture::native();
        let Some(number) = architecture::system_call("execveat").and_then(|call| native.number(call)) else { return };
        let mut program = program::allow_execveat(native.token, number, fd.as_raw_fd().unsigned_abs());
        program.append(&mut self.program);
        self.program = program;
    }

    /// Loads the filter for the calling thread, which must have CAP_SYS_ADMIN in its user namespace or `no_new_privs`.
    ///
    /// With [`Filter::notify`] gives the notify descriptor. Until the agent has that, `write` is the one system call
    /// that is sure not to wait for it: write the descriptor's number to the parent, which takes it by pidfd_getfd(2).
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        let flags = self.all_flags();
        let loaded = match corten_sys::seccomp::load(&self.program, flags) {
            Err(Errno::INVAL) if self.optional_flags != 0 => {
                corten_sys::seccomp::load(&self.program, flags & !self.optional_flags)
            }
            loaded => loaded,
        };
        loaded.map_err(|errno| {
            let call = format!("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, [{} instructions])", self.program.len());
            let error = Error::syscall(call, errno.raw_os_error());
            match errno {
                Errno::ACCESS => error.hint("set `process.noNewPrivileges`, or keep CAP_SYS_ADMIN"),
                Errno::BUSY => error.hint("a filter with a listener is loaded already, and a process can have one"),
                Errno::INVAL | Errno::NOSYS => error.hint("the kernel needs CONFIG_SECCOMP_FILTER"),
                _ => error,
            }
        })
    }
}

/// Sends the notify descriptor to the agent that listens on `path` (config-linux.md, "The Container Process State").
///
/// `state` is the JSON of the container process state, with `"fds":["seccompFd"]`. A `path` that begins with `@` names an
/// abstract socket, as for runc.
pub fn send_listener(path: &Path, fd: BorrowedFd<'_>, state: &[u8]) -> Result<()> {
    listener::send(path, fd, state)
}

/// Names of the actions, for `features`.
pub fn known_actions() -> &'static [&'static str] {
    &profile::ACTION_NAMES
}

/// Names of the comparison operators, for `features`.
pub fn known_operators() -> &'static [&'static str] {
    &profile::OPERATOR_NAMES
}

/// Names of the architectures, for `features`.
pub fn known_architectures() -> &'static [&'static str] {
    &architecture::NAMES
}

/// Names of the filter flags, for `features`.
pub fn known_flags() -> &'static [&'static str] {
    &profile::FLAG_NAMES
}

/// Those of [`known_flags`] that this kernel takes, for `features`.
pub fn supported_flags() -> Vec<&'static str> {
    let supported = profile::FLAGS.into_iter().filter(|(_, flag)| corten_sys::seccomp::flag_available(*flag));
    supported.map(|(name, _)| name).collect()
}
