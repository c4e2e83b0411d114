//! The caller's terminal: typed keys reach the program, and afterwards it is as it was.

use std::time::Duration;

use corten_testkit::require;
use corten_testkit::run::{finish, shown};
use corten_testkit::skip::program;

use crate::sandbox;

/// Runs `script` in a terminal of its own with `typed` on it.
fn in_a_terminal(sandbox: &corten_testkit::Sandbox, script: &str, typed: &str) -> corten_testkit::Finished {
    let mut command = sandbox.command("script");
    command.args(["-qec", script, "/dev/null"]);
    finish(command, Some(typed.as_bytes()), Duration::from_secs(30))
}

#[test]
fn the_terminal_is_as_before_however_the_program_ends() {
    let mut sandbox = sandbox();
    require!(program("script").is_some(), "needs `script` to have a terminal");
    let tiny = sandbox.tiny();
    for (program, code) in [("exit 3", 3), ("stty raw -echo; exit 0", 0), ("kill -9 1; exit 4", 4)] {
        let line = shown(&sandbox.corten_command(["run", "--rm", "-it", &tiny, "sh", "-c", program]));
        let script = format!("before=$(stty -g); {line}; echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo same");
        in_a_terminal(&sandbox, &script, "").shows(&format!("code {code}")).shows("same");
    }
    let line = shown(&sandbox.corten_command(["run", "--rm", "-it", &tiny, "no-such-program"]));
    let script = format!("before=$(stty -g); {line}; echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo same");
    in_a_terminal(&sandbox, &script, "").shows("code 127").shows("same");
}

#[test]
fn an_interrupt_typed_at_the_terminal_reaches_the_program() {
    let mut sandbox = sandbox();
    require!(program("script").is_some(), "needs `script` to have a terminal");
    let tiny = sandbox.tiny();
    let program = "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.1; done";
    let line = shown(&sandbox.corten_command(["run", "--rm", "-it", &tiny, "sh", "-c", program]));
    let mut command = sandbox.command("sh");
    // The key is typed once the program is ready; the terminal stays until the end was seen.
    let typing = "seen() { for i in $(seq 200); do grep -q \"$1\" \"$2\" 2>/dev/null && return; sleep 0.1; done; }
        (seen ^ready \"$2\"; printf '\\003'; seen ^code \"$2\") | script -qefc \"$1; echo code \\$?\" \"$2\"";
    command.args(["-c", typing, "sh", &line]).arg(sandbox.work().join("typescript"));
    finish(command, None, Duration::from_secs(30)).shows("interrupted").shows("code 6");
}
