//! `corten run --rm hello`: nothing to install, nothing to download, and it shows what isolates it.

use corten_testkit::skip::{is_root, program};
use corten_testkit::{Identity, require};

use crate::{sandbox, sandbox_as};

#[test]
fn hello_runs_from_the_binary_itself() {
    let sandbox = sandbox();
    let hello = sandbox.corten(["run", "--rm", "hello"]);
    hello.ok();
    for fact in ["pid", "host", "namespace", "capabilit", "seccomp", "cgroup", "mount"] {
        assert!(hello.stdout.to_lowercase().contains(fact), "nothing about {fact}\n{}", hello.transcript());
    }
    sandbox.corten(["ps", "-aq"]).ok().prints("");
}

#[test]
fn hello_runs_as_an_ordinary_user_without_a_name() {
    require!(is_root(), "needs root to become another user");
    let sandbox = sandbox_as(Identity::User);
    sandbox.corten(["run", "--rm", "hello"]).ok();
}

#[test]
fn hello_runs_as_an_ordinary_user_with_subordinate_ids() {
    require!(is_root(), "needs root to become another user");
    require!(program("newuidmap").is_some(), "needs `newuidmap` (Debian's package uidmap)");
    let sandbox = sandbox_as(Identity::UserWithSubordinateIds);
    sandbox.corten(["run", "--rm", "hello"]).ok();
    let mut sandbox = sandbox_as(Identity::UserWithSubordinateIds);
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--rm", "-u", "alice", &tiny, "id", "-u"]).ok().prints("1000");
}

#[test]
fn hello_runs_many_times_beside_itself() {
    let sandbox = sandbox();
    sandbox.corten(["run", "--rm", "hello"]).ok();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| sandbox.corten(["run", "--rm", "hello"]))).collect();
        for run in runs {
            run.join().unwrap().ok();
        }
    });
}
