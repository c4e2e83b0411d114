//! One program, several roles: chosen by its name or by its first argument, before anything else is set up.
#![cfg_attr(all(target_env = "gnu", not(test)), no_main)]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use corten_cli::Environment;

/// The C library's allocator, but for the runtime's short commands.
#[global_allocator]
static ALLOCATOR: corten_sys::arena::Arena = corten_sys::arena::Arena::closed();

#[cfg(all(target_env = "gnu", not(test)))]
corten_sys::program!(begin);

#[cfg(not(all(target_env = "gnu", not(test))))]
fn main() {
    std::process::exit(begin());
}

fn begin() -> i32 {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    run(&program, rest)
}

/// The exit code of the role that the words ask for.
fn run(program: &OsStr, mut rest: Vec<OsString>) -> i32 {
    let name = std::path::Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    if matches!(name, "corten-runtime" | "runc" | "crun") {
        return runtime(name, rest);
    }
    if name == "containerd-shim-corten-v2" {
        return containerd_shim(&rest);
    }
    let role = rest.first().and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    if matches!(role.as_str(), "runtime" | "shim" | "init" | "hello") {
        rest.remove(0);
    }
    match role.as_str() {
        "runtime" => runtime("corten-runtime", rest),
        "shim" => corten_shim::main(rest),
        "init" => corten_shim::init_main(rest),
        "hello" => corten_cli::hello::main().into(),
        _ => {
            end_with_the_reader();
            corten_cli::main(rest, &environment()).into()
        }
    }
}

fn runtime(name: &str, args: Vec<OsString>) -> i32 {
    ALLOCATOR.open();
    end_with_the_reader();
    corten_cli::runtime::main(name, args, &environment()).into()
}

fn containerd_shim(args: &[OsString]) -> i32 {
    let environment = environment();
    let text = |word: &OsString| word.to_str().map(str::to_owned);
    let variables = environment.variables.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    corten_shim::containerd_main(args, &variables.collect(), &environment.working_directory)
}

/// Rust ignores SIGPIPE; `corten ps | head -n 1` should end as quietly as any program does.
fn end_with_the_reader() {
    corten_sys::signal::set_default(corten_sys::signal::SIGPIPE);
}

/// The one place that reads the environment.
fn environment() -> Environment {
    Environment {
        variables: std::env::vars_os().collect(),
        working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        uid: rustix::process::geteuid().as_raw(),
        executable: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")),
    }
}
