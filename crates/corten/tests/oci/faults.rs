//! A failure of any system call, and a death at any of them: the error is named, nothing panics or hangs, and
//! `delete --force` leaves nothing.
//!
//! strace makes the calls fail. In an ordinary run a sample of them does; `CORTEN_TEST_ALL_FAULTS=1` has every one fail in
//! every way.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::*;

/// Failures as strace's `inject` takes them.
const KINDS: [&str; 7] =
    ["error=EIO", "error=ENOMEM", "error=ENOSPC", "error=EMFILE", "error=EPERM", "error=ENOSYS", "signal=KILL"];

/// Faults of each command in an ordinary run.
const SAMPLE: usize = 20;

/// What is made to fail: the `nth` call of this name in any process, from 1 on.
#[derive(Debug)]
struct Fault {
    call: String,
    nth: usize,
    kind: &'static str,
}

fn strace(sandbox: &Sandbox, options: &[OsString], words: &[&str]) -> Finished {
    let runtime = sandbox.runtime_command(words);
    let mut command = sandbox.command("strace");
    command.args(["-D", "-f", "-qq"]).args(options).arg(runtime.get_program()).args(runtime.get_args());
    // strace is not the parent (`-D`): it stays as long as the container does, which must not hold our pipes open.
    let mut quiet = sandbox.command("sh");
    let (output, text) = (sandbox.work().join("fault-output"), "out=$1; shift; \"$@\" </dev/null >\"$out\" 2>&1");
    quiet.args(["-c", text, "sh"]).arg(&output).arg(command.get_program()).args(command.get_args());
    let mut finished = corten_testkit::run::finish(quiet, None, LIMIT);
    finished.stderr = std::fs::read_to_string(output).unwrap_or_default();
    finished
}

/// Every call that the command makes, with how often the process makes it that makes it most.
fn calls(sandbox: &Sandbox, words: &[&str]) -> BTreeMap<String, usize> {
    let log = sandbox.work().join("calls");
    strace(sandbox, &["-o".into(), log.clone().into()], words).ok();
    delete(sandbox);
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *counts.entry((pid.to_owned(), name.to_owned())).or_default() += 1;
        }
    }
    std::fs::remove_file(log).unwrap();
    let mut most = BTreeMap::new();
    for ((_, name), count) in counts {
        let known: &mut usize = most.entry(name).or_default();
        *known = count.max(*known);
    }
    most
}

/// Which faults are tried: all, or some of each call and kind.
fn chosen(calls: &BTreeMap<String, usize>) -> Vec<Fault> {
    let mut all = Vec::new();
    for (call, count) in calls {
        for nth in 1..=*count {
            all.extend(KINDS.iter().map(|kind| Fault { call: call.clone(), nth, kind }));
        }
    }
    if std::env::var_os("CORTEN_TEST_ALL_FAULTS").is_some() {
        return all;
    }
    // Another part of them in every run, so that all come up in time.
    let start = usize::try_from(std::process::id()).unwrap();
    let (count, step) = (all.len(), all.len() / SAMPLE + 1);
    all.into_iter()
        .enumerate()
        .filter(|(index, _)| (index + start % count) % step == 0)
        .map(|(_, fault)| fault)
        .collect()
}

/// Has `words` fail in every chosen way; `before` makes what the command works on.
fn every_fault(words: &[&str], before: impl Fn(&Sandbox)) {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "as root only");
    corten_testkit::require!(corten_testkit::skip::program("strace").is_some(), "needs strace");
    let bundle = sleeper(&sandbox);
    let directory = bundle.directory.to_str().unwrap().to_owned();
    std::fs::rename(&directory, sandbox.work().join("bundle")).unwrap();
    before(&sandbox);
    let calls = calls(&sandbox, words);
    for fault in chosen(&calls) {
        before(&sandbox);
        let inject = format!("inject={}:{}:when={}", fault.call, fault.kind, fault.nth);
        let quiet = ["-e", "trace=none", "-e", &inject, "-o", "/dev/null"].map(OsString::from);
        let finished = strace(&sandbox, &quiet, words);
        let transcript = || format!("{fault:?}\n{}", finished.transcript());
        assert!(!finished.timed_out, "it hangs: {}", transcript());
        assert!(!finished.stderr.contains("panicked"), "it panics: {}", transcript());
        // Whose words cannot be written, or who is killed, says nothing.
        let may_be_silent = fault.kind == "signal=KILL" || finished.code > 128 || fault.call.starts_with("write");
        assert!(finished.code == 0 || may_be_silent || !finished.stderr.is_empty(), "no reason: {}", transcript());
        let deleted = sandbox.runtime(["delete", "--force", "c"]);
        assert!(deleted.code == 0, "{}\n{}", transcript(), deleted.transcript());
        let gone = sandbox.runtime(["state", "c"]);
        assert!(gone.code == 1, "{}\n{}", transcript(), gone.transcript());
    }
}

const BUNDLE: &str = "bundle";

fn created(sandbox: &Sandbox) {
    detached(sandbox, &["create", "-b", BUNDLE, "c"]).ok();
}

fn running(sandbox: &Sandbox) {
    detached(sandbox, &["run", "-d", "-b", BUNDLE, "c"]).ok();
}

#[test]
fn create_survives_every_failure() {
    every_fault(&["create", "-b", BUNDLE, "c"], |_| {});
}

#[test]
fn run_survives_every_failure() {
    every_fault(&["run", "-d", "-b", BUNDLE, "c"], |_| {});
}

#[test]
fn start_survives_every_failure() {
    every_fault(&["start", "c"], created);
}

#[test]
fn exec_survives_every_failure() {
    every_fault(&["exec", "c", "true"], running);
}

#[test]
fn delete_survives_every_failure() {
    every_fault(&["delete", "--force", "c"], running);
}
