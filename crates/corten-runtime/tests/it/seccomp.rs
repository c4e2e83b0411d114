//! Filters in the kernel: what a program under them meets. A filter binds one thread and what it starts.

use std::io::{Error as IoError, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use corten_runtime::seccomp::{compile, send_listener, supported_flags};
use corten_sys::seccomp::{answer, receive};
use corten_types::runtime_spec::Seccomp;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const SIGSYS: i32 = 31;

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

/// Runs `body` in a thread under the filter of `json`.
fn under<T: Send + 'static>(json: &str, body: impl FnOnce(Option<OwnedFd>) -> T + Send + 'static) -> T {
    let filter = compile(&profile(json)).unwrap().unwrap();
    let confined = thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        body(filter.load().unwrap())
    });
    confined.join().unwrap()
}

fn program_under(json: &str, program: &'static str, args: &'static [&str]) -> Output {
    under(json, move |_| Command::new(program).args(args).output()).unwrap()
}

fn mkdir(path: &Path) -> Result<(), Option<i32>> {
    std::fs::create_dir(path).map_err(|error: IoError| error.raw_os_error())
}

fn mkdir_under(json: &str) -> Result<(), Option<i32>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made");
    let result = under(json, move |_| mkdir(&path));
    assert_eq!(directory.path().join("made").exists(), result.is_ok());
    result
}

#[test]
fn a_refused_call_fails_with_the_rules_error_number() {
    let json = |rest: &str| {
        format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir","mkdirat"],{rest}}}]}}"#)
    };
    assert_eq!(mkdir_under(&json(r#""action":"SCMP_ACT_ERRNO""#)), Err(Some(1)));
    assert_eq!(mkdir_under(&json(r#""action":"SCMP_ACT_ERRNO","errnoRet":100"#)), Err(Some(100)));
    // Nobody traces: the kernel says that the call does not exist.
    assert_eq!(mkdir_under(&json(r#""action":"SCMP_ACT_TRACE""#)), Err(Some(38)));
    assert_eq!(mkdir_under(&json(r#""action":"SCMP_ACT_LOG""#)), Ok(()));
    assert_eq!(
        mkdir_under(&json(r#""action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]"#)),
        Ok(())
    );
}

#[test]
fn killing_and_trapping_actions_end_the_program() {
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir","mkdirat"],"action":"{action}"}}]}}"#
        );
        let output = program_under(&json, "mkdir", &["/nowhere/at/all"]);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{action}: {output:?}");
        assert!(program_under(&json, "true", &[]).status.success());
    }
}

#[test]
fn arguments_decide_by_all_of_their_bits() {
    // lseek(2) refuses a bad descriptor itself (EBADF), so the filter's own numbers can be told apart.
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["lseek"],"action":"SCMP_ACT_ERRNO","errnoRet":90,"args":[{"index":1,"value":4294967297,"op":"SCMP_CMP_EQ"}]},
        {"names":["lseek"],"action":"SCMP_ACT_ERRNO","errnoRet":91,"args":[{"index":1,"value":8589934592,"op":"SCMP_CMP_GE"}]},
        {"names":["lseek"],"action":"SCMP_ACT_ERRNO","errnoRet":92,"args":[
            {"index":1,"value":15,"valueTwo":7,"op":"SCMP_CMP_MASKED_EQ"},{"index":2,"value":1,"op":"SCMP_CMP_NE"}]}]}"#;
    let errors = under(json, |_| {
        let file = std::fs::File::open("/dev/null").unwrap();
        [1, 0x1_0000_0001, 0x2_0000_0000, 0x7, 0x17, 0x8]
            .map(|offset| rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset)).err().map(Errno::raw_os_error))
    });
    assert_eq!(errors, [None, Some(90), Some(91), Some(92), Some(92), None]);
}

#[test]
fn every_supported_flag_loads() {
    let flags = supported_flags();
    assert!(flags.contains(&"SECCOMP_FILTER_FLAG_LOG"), "{flags:?}");
    for flag in flags {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":["{flag}"],
                 "syscalls":[{{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}}]}}"#
        );
        assert_eq!(mkdir_under(&json), Err(Some(1)), "{flag}");
    }
}

#[test]
fn a_filter_of_every_architecture_here_loads_and_lets_programs_run() {
    let architectures = match std::env::consts::ARCH {
        "x86_64" => r#"["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"]"#,
        _ => "[]",
    };
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":{architectures},"syscalls":[
             {{"names":["keyctl","add_key","bpf","swapon","reboot"],"action":"SCMP_ACT_KILL_PROCESS"}}]}}"#
    );
    let output = program_under(&json, "sh", &["-c", "ls / | wc -l && echo fine"]);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("fine\n"), "{output:?}");
}

/// What an agent gets over its socket: the state and the notify descriptor.
fn accept(listener: &UnixListener) -> (String, OwnedFd) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut start = [0; 16];
    let received = recvmsg(&stream, &mut [IoSliceMut::new(&mut start)], &mut control, RecvFlags::empty()).unwrap();
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let mut state = String::from_utf8(start[..received.bytes].to_vec()).unwrap();
    stream.read_to_string(&mut state).unwrap();
    assert_eq!(fds.len(), 1);
    (state, fds.remove(0))
}

#[test]
fn an_agent_answers_for_the_calls_it_is_notified_of() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"{}","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
             "syscalls":[{{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_NOTIFY"}}]}}"#,
        socket.display()
    );
    let state =
        format!(r#"{{"ociVersion":"1.3.0","fds":["seccompFd"],"pid":7,"state":{{"id":"{}"}}}}"#, "x".repeat(999));
    let (sent, made) = (state.clone(), directory.path().join("made"));
    let confined = thread::spawn(move || {
        under(&json, move |notify| {
            send_listener(&socket, notify.unwrap().as_fd(), sent.as_bytes()).unwrap();
            [mkdir(&made), mkdir(&made), mkdir(&made)]
        })
    });
    let (received, notify) = accept(&listener);
    assert_eq!(received, state);
    let answers = [Some(Err(Errno::NOMEDIUM)), Some(Ok(0)), None];
    for result in answers {
        let call = receive(notify.as_fd()).unwrap();
        answer(notify.as_fd(), call.id, result).unwrap();
    }
    assert_eq!(confined.join().unwrap(), [Err(Some(123)), Ok(()), Ok(())]);
    assert!(directory.path().join("made").exists());
}

#[test]
fn an_absent_agent_is_named() {
    let file = tempfile::tempfile().unwrap();
    for path in ["/nowhere/agent.sock", "@corten-no-such-agent"] {
        let error = send_listener(Path::new(path), file.as_fd(), b"{}").unwrap_err();
        assert_eq!(error.message(), format!("failed to connect with seccomp agent at `{path}`"));
    }
    let error = send_listener(Path::new(&"/long".repeat(40)), file.as_fd(), b"{}").unwrap_err();
    assert!(error.report().contains("too long for a socket address"), "{}", error.report());
}
