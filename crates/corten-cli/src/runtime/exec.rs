//! `exec`: one more process in a running container.

use corten_runtime::runtime::{ExecRequest, Status};
use corten_types::runtime_spec::Process;
use corten_types::{Error, ErrorKind, Result};

use super::arguments::Arguments;
use super::foreground::{self, Foreground, PidfdReceiver};
use super::{Context, lifecycle};

/// `exec`
pub(super) fn exec(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let request = request(context, arguments)?;
    let detach = arguments.is_set("detach");
    let (has_socket, terminal) = (request.console_socket.is_some(), request.process.terminal);
    if detach && terminal && !has_socket {
        return Err(Error::invalid("cannot allocate tty if the runtime will detach without setting console socket")
            .hint("name a socket with `--console-socket`"));
    }
    foreground::refuse_console_socket(has_socket && !(detach && terminal))?;
    let receiver = PidfdReceiver::connect(context, arguments, c"setns")?;
    if detach {
        let started = context.runtime.exec(request)?;
        context.log.started(&started);
        receiver.deliver(&started.pidfd)?;
        return Ok(0);
    }
    let foreground = Foreground::begin(false, None)?;
    let started = context.runtime.exec(request)?;
    context.log.started(&started);
    receiver.deliver(&started.pidfd)?;
    foreground.follow(started)
}

fn request(context: &Context<'_>, arguments: &Arguments) -> Result<ExecRequest> {
    let id = lifecycle::id(arguments)?;
    let absolute = |name| arguments.path(name).map(|path| context.environment.absolute(path));
    let process = match absolute("process") {
        Some(path) => read_process(&path)?,
        None => edited_process(context, id, arguments)?,
    };
    Ok(ExecRequest {
        id: id.to_owned(),
        process,
        console_socket: absolute("console-socket"),
        pid_file: absolute("pid-file"),
        preserve_fds: lifecycle::preserve_fds(arguments)?,
        stdio: None,
        keep_line_feeds: !arguments.is_set("detach"),
        ignore_paused: arguments.is_set("ignore-paused"),
        cgroups: arguments.list("cgroup").map(str::to_owned).collect(),
    })
}

fn read_process(path: &std::path::Path) -> Result<Process> {
    let json = std::fs::read(path)
        .map_err(|error| Error::from(error).context(format!("cannot read process document {path:?}")))?;
    Process::parse(&json)
}

/// The container's own process with what the flags change.
fn edited_process(context: &Context<'_>, id: &str, arguments: &Arguments) -> Result<Process> {
    let mut process = match context.runtime.exec_process(id) {
        Ok(process) => process,
        Err(error) => return Err(refusal_by_state(context, id).unwrap_or(error)),
    };
    process.args = arguments.operands[1..].to_vec();
    if process.args.is_empty() {
        return Err(Error::invalid("exec args cannot be empty").hint("name a command after the container"));
    }
    if let Some(directory) = arguments.text("cwd") {
        process.cwd = directory.to_owned();
    }
    if let Some(profile) = arguments.text("apparmor") {
        process.apparmor_profile = profile.to_owned();
    }
    if let Some(label) = arguments.text("process-label") {
        process.selinux_label = label.to_owned();
    }
    process.env.extend(arguments.list("env").map(str::to_owned));
    process.terminal = arguments.is_set("tty");
    if arguments.is_given("no-new-privs") {
        process.no_new_privileges = arguments.is_set("no-new-privs");
    }
    add_capabilities(&mut process, arguments.list("cap"));
    set_user(&mut process, arguments)?;
    Ok(process)
}

/// A container that ended may have lost its documents; its state says more than their absence.
fn refusal_by_state(context: &Context<'_>, id: &str) -> Option<Error> {
    let state = context.runtime.state(id).ok()?;
    (state.status == Status::Stopped).then(|| Error::new(ErrorKind::Conflict, "cannot exec in a stopped container"))
}

fn add_capabilities<'a>(process: &mut Process, names: impl Iterator<Item = &'a str>) {
    for name in names {
        let sets = process.capabilities.get_or_insert_default();
        sets.bounding.push(name.to_owned());
        sets.effective.push(name.to_owned());
        sets.permitted.push(name.to_owned());
        // The kernel takes an ambient capability only beside an inheritable one.
        if !sets.inheritable.is_empty() {
            sets.ambient.push(name.to_owned());
        }
    }
}

fn set_user(process: &mut Process, arguments: &Arguments) -> Result<()> {
    let number = |what: &str, text: &str| {
        let id = text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| Error::invalid(format!("bad {what}: `{text}` is not a number from 0 to 4294967294")))
    };
    if let Some(user) = arguments.text("user") {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        if let Some(gid) = gid {
            process.user.gid = number("gid", gid)?;
        }
        process.user.uid = number("uid", uid)?;
    }
    for gid in arguments.list("additional-gids") {
        process.user.additional_gids.push(number("additional gid", gid)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::arguments::{Arguments, Order};
    use crate::runtime::table;

    fn user(words: &[&str]) -> Result<Process> {
        let words: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
        let flags = table::find("exec".as_ref()).unwrap().flags;
        let arguments = Arguments::read(&mut words.into_iter(), &[flags], Order::OperandEnds).unwrap();
        let mut process = Process::default();
        set_user(&mut process, &arguments).map(|()| process)
    }

    #[test]
    fn a_user_is_a_pair_of_numbers_and_never_root_by_accident() {
        let process = user(&["-u", "1000:100", "-g", "5", "-g6"]).unwrap();
        assert_eq!((process.user.uid, process.user.gid, &process.user.additional_gids[..]), (1000, 100, &[5, 6][..]));
        for text in ["4294967295", "4294967296", "-1", "root", "1:", "0x0", "1 ", "+"] {
            assert!(user(&["--user", text]).is_err(), "{text}");
        }
    }
}
