//! How long a profile takes to compile and to load: `cargo bench -p corten-runtime --bench seccomp -- [config.json]`.
#![expect(clippy::print_stdout, reason = "the numbers are what it is for")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use corten_runtime::seccomp::compile;
use corten_types::runtime_spec::{Linux, Seccomp, SeccompRule, Spec};

fn main() {
    let file = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let seccomp = file.map_or_else(small, |path| {
        let text = std::fs::read(path).expect("the file can be read");
        let spec = Spec::parse(&text).expect("the file is a config.json");
        spec.linux.and_then(|Linux { seccomp, .. }| seccomp).expect("the file has `linux.seccomp`")
    });
    let start = Instant::now();
    let filter = compile(&seccomp).expect("the profile is valid").expect("the profile asks for something");
    let first = start.elapsed();
    let compiling = median(1000, || {
        let start = Instant::now();
        black_box(compile(black_box(&seccomp))).expect("the profile is valid");
        start.elapsed()
    });
    let loading = median(50, || {
        let filter = filter.clone();
        let confined = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("no_new_privs can be set");
            let start = Instant::now();
            filter.load().expect("the filter loads");
            start.elapsed()
        });
        confined.join().expect("the thread ends well")
    });
    println!("{} instructions; compile {first:?} at first, then {compiling:?}; load {loading:?}", filter.program.len());
}

/// A small profile, where no file is named.
fn small() -> Seccomp {
    let names = ["read", "open", "close", "stat", "poll", "mmap", "brk", "ioctl", "pipe", "dup", "alarm", "socket"];
    let rule = SeccompRule {
        names: names.into_iter().map(str::to_owned).collect(),
        action: "SCMP_ACT_ERRNO".to_owned(),
        ..SeccompRule::default()
    };
    Seccomp { default_action: "SCMP_ACT_ALLOW".to_owned(), syscalls: vec![rule], ..Seccomp::default() }
}

fn median(runs: usize, mut run: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..runs).map(|_| run()).collect();
    times.sort();
    times[runs / 2]
}
