//! The OCI runtime through its command line: one behaviour a test, the kernel asked what came of it.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test works on its own temporary files and panics"
)]

mod attributes;
mod checkpoint;
mod command_line;
mod exec;
mod faults;
mod hooks;
mod hostile;
mod isolation;
mod killed;
mod life;
mod limits;
mod many;
mod net_devices;
mod seccomp;
mod service;
mod terminal;

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use corten_testkit::{Bundle, Finished, Sandbox};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_corten"))
}

/// A command whose process outlives it: its output goes to a file, so that nobody waits for a pipe to close.
struct Detached {
    code: i32,
    text: String,
}

impl Detached {
    #[track_caller]
    fn ok(&self) {
        assert_eq!(self.code, 0, "{}", self.text);
    }
}

fn detached(sandbox: &Sandbox, args: &[&str]) -> Detached {
    let path = sandbox.work().join("output");
    let file = File::create(&path).unwrap();
    let mut command = sandbox.runtime_command(args);
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let code = corten_testkit::run::code_of(command.status().unwrap());
    Detached { code, text: std::fs::read_to_string(path).unwrap() }
}

/// `run` of the bundle, to its end.
fn run(sandbox: &Sandbox, bundle: &Bundle) -> Finished {
    sandbox.runtime(["run", "-b", bundle.directory.to_str().unwrap(), "c"])
}

/// Creates `c` and starts it; the caller's bundle names a program that stays.
#[track_caller]
fn start(sandbox: &Sandbox, bundle: &Bundle) {
    detached(sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    sandbox.runtime(["start", "c"]).ok();
}

fn sleeper(sandbox: &Sandbox) -> Bundle {
    sandbox.bundle(["sleep", "1000"])
}

/// A bundle whose program is this shell script.
fn script(sandbox: &Sandbox, text: &str) -> Bundle {
    sandbox.bundle(["sh", "-c", text])
}

#[track_caller]
fn state(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&sandbox.runtime(["state", "c"]).ok().stdout).unwrap()
}

#[track_caller]
fn wait_for_status(sandbox: &Sandbox, status: &str) {
    let reached = corten_testkit::run::eventually(LIMIT, || state(sandbox)["status"] == status);
    assert!(reached, "never {status}: {}", state(sandbox));
}

fn delete(sandbox: &Sandbox) {
    sandbox.runtime(["delete", "--force", "c"]).ok();
}
