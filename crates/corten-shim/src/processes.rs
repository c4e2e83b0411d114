//! Further processes in the container: `exec`, and the commands of health checks.

use std::os::fd::OwnedFd;

use corten_fs::Root;
use corten_runtime::runtime::{ExecRequest, Started};
use corten_types::runtime_spec::{Capabilities, ConsoleSize, Process};
use corten_types::shim::{Event, Exec};
use corten_types::{Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::streams::non_blocking;
use crate::supervisor::{Phase, Supervisor};
use crate::{events, identity, launch};

/// Most further processes at once.
const PROCESSES_MAX: usize = 4096;

/// A process that `exec` started.
pub(crate) struct Executed {
    pub(crate) pid: Pid,
    id: String,
    /// Who is told of its end.
    client: u64,
    /// The terminal's main side: kept, so that it outlives a client that detached.
    terminal: Option<OwnedFd>,
    /// Nobody reads the terminal any more: what is printed there is dropped, so that the process does not wait for ever.
    is_orphan: bool,
}

impl Executed {
    /// A terminal that nobody else reads.
    pub(crate) fn unread(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref().filter(|_| self.is_orphan)
    }

    /// Takes what was printed and drops it.
    pub(crate) fn drop_output(&mut self) {
        let mut buffer = [0; 4096];
        match self.unread().map(|terminal| rustix::io::read(terminal, &mut buffer)) {
            None | Some(Ok(1..) | Err(Errno::AGAIN | Errno::INTR)) => {}
            // The other side is closed.
            Some(Ok(_) | Err(_)) => self.terminal = None,
        }
    }
}

impl Supervisor {
    /// Starts a process for a client.
    pub(crate) fn start_process(
        &mut self,
        client: u64,
        exec: Exec,
        streams: Vec<OwnedFd>,
    ) -> Result<(Event, Vec<OwnedFd>)> {
        if self.executed.len() >= PROCESSES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("{PROCESSES_MAX} processes were started already")));
        }
        let command = exec.args.join(" ");
        events::tell(&self.launch, format!("exec_create: {command}"), &[("execID", exec.id.clone())]);
        let stdio = match (exec.terminal, streams.is_empty()) {
            (true, _) => None,
            (false, true) => Some([launch::null()?, launch::null()?, launch::null()?]),
            (false, false) => Some(
                streams
                    .try_into()
                    .map_err(|_| Error::invalid("three streams must come beside a process that has some"))?,
            ),
        };
        let mut started = self.execute(&exec, stdio)?;
        events::tell(&self.launch, format!("exec_start: {command}"), &[("execID", exec.id.clone())]);
        let pid = started.pid.as_raw_nonzero().get();
        let terminal = started.terminal.take();
        let beside = terminal.iter().map(OwnedFd::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        self.executed.push(Executed { pid: started.pid, id: exec.id, client, terminal, is_orphan: exec.detached });
        Ok((Event::ExecStarted { pid }, beside))
    }

    /// Starts a process; it is this process's child.
    pub(crate) fn execute(&self, exec: &Exec, stdio: Option<[OwnedFd; 3]>) -> Result<Started> {
        let name = self.launch.attributes.get("name").map_or("", String::as_str);
        match (&self.phase, self.record.state.as_str()) {
            (Phase::Running(_), "paused") => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("container {name} is paused, unpause the container before exec"),
                )
                .hint(format!("`corten unpause {name}`")));
            }
            (Phase::Running(_), _) => {}
            _ => return Err(Error::new(ErrorKind::Conflict, format!("container {name} is not running"))),
        }
        let runtime = launch::runtime(&self.launch);
        let mut process = runtime.exec_process(&self.launch.id)?;
        self.adapt(&mut process, exec)?;
        runtime.exec(ExecRequest { id: self.launch.id.clone(), process, stdio, ..ExecRequest::default() })
    }

    /// The container's process with what was asked.
    fn adapt(&self, process: &mut Process, exec: &Exec) -> Result<()> {
        process.args.clone_from(&exec.args);
        process.terminal = exec.terminal;
        process.console_size = exec.terminal_size.map(|(height, width)| ConsoleSize { height, width });
        // HOME is the user's where neither image nor user set one.
        if self.home_is_ours {
            process.env.retain(|entry| !entry.starts_with("HOME="));
        }
        if let Some(user) = &exec.user {
            let root = Root::open_ambient(&launch::root_path(&self.launch))?;
            let mut identity = identity::resolve(&root, user, &self.launch.groups)?;
            if self.launch.groups.is_empty() && !launch::may_set_groups() {
                identity.user.additional_gids.clear();
            }
            launch::check_mapped("user", identity.user.uid, "/proc/self/uid_map")?;
            launch::check_mapped("group", identity.user.gid, "/proc/self/gid_map")?;
            process.user = identity.user;
            if self.home_is_ours {
                process.env.push(format!("HOME={}", identity.home));
            }
        } else if self.home_is_ours {
            process.env.push(format!("HOME={}", self.home));
        }
        if exec.terminal && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        for change in &exec.env {
            let name = change.split_once('=').map_or(change.as_str(), |(name, _)| name);
            process.env.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
            if change.contains('=') {
                process.env.push(change.clone());
            }
        }
        if let Some(directory) = &exec.cwd {
            process.cwd.clone_from(directory);
        }
        if let Some(names) = &exec.capabilities {
            process.capabilities = Some(Capabilities {
                bounding: names.clone(),
                effective: names.clone(),
                permitted: names.clone(),
                ..Capabilities::default()
            });
        }
        Ok(())
    }

    /// A client is gone: the terminals that it read are read by nobody else.
    pub(crate) fn orphan_terminals(&mut self, client: u64) {
        for one in self.executed.iter_mut().filter(|one| one.client == client) {
            one.is_orphan = true;
            let blocking = one.terminal.take();
            one.terminal = blocking.and_then(|terminal| non_blocking(terminal).ok());
        }
    }

    /// A child that is not the program has ended: tells who waits for it.
    pub(crate) fn end_process(&mut self, pid: Pid, code: u8) {
        self.streams.log().reaped(pid);
        let Some(index) = self.executed.iter().position(|one| one.pid == pid) else { return };
        let ended = self.executed.swap_remove(index);
        if let Some(client) = self.clients.iter().find(|client| client.id == ended.client) {
            client.tell(&Event::ExecExited { code }, &[]);
        }
        events::tell(&self.launch, "exec_die", &[("execID", ended.id), ("exitCode", code.to_string())]);
    }
}
