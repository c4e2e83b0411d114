//! The other side of integration tests: a program with one thread, which the test harness is not.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a part of the tests")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsFd;

use corten_runtime::cgroup::{Cgroup, Request};
use corten_sys::clone::{CloneRequest, Side, SingleThreaded, clone, exit_now};
use corten_types::runtime_spec::Resources;
use rustix::process::{Gid, Uid, WaitId, WaitIdOptions, waitid};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, role, payload] = &args[..] else { panic!("usage: ROLE JSON") };
    match role.as_str() {
        "enter-cgroup" => enter_cgroup(payload),
        "make-cgroup-as-user" => make_cgroup_as_user(payload),
        other => panic!("unknown role {other}"),
    }
}

/// Runs a script in a process that enters a container's cgroup as the runtime does.
fn enter_cgroup(payload: &str) {
    let (cgroup, sub_cgroups, script): (Cgroup, Vec<String>, String) = serde_json::from_str(payload).unwrap();
    let single = SingleThreaded::check().unwrap();
    let entry = cgroup.exec_entry(&sub_cgroups, None).unwrap_or_else(|error| panic!("{}", error.report()));
    let request = CloneRequest { flags: 0, cgroup: entry.clone_into() };
    match clone(&single, &request).unwrap() {
        Side::Child => {
            entry.join_self(true).unwrap_or_else(|error| panic!("{}", error.report()));
            let args = ["sh", "-c", &script].map(|one| CString::new(one).unwrap());
            corten_sys::exec::execve(c"/bin/sh", &args, &[c"PATH=/usr/bin:/bin".to_owned()]);
            exit_now(98);
        }
        Side::Parent { pidfd, .. } => {
            let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
            exit_now(status.exit_status().unwrap_or(97));
        }
    }
}

/// Makes and removes a cgroup as an ordinary user, from within the cgroup whose `cgroup.procs` is given.
fn make_cgroup_as_user(payload: &str) {
    let (inside, path, json): (String, String, String) = serde_json::from_str(payload).unwrap();
    if !inside.is_empty() {
        std::fs::write(inside, "0").unwrap();
    }
    let (gid, uid) = (Gid::from_raw(1000), Uid::from_raw(1000));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    let resources = Resources::parse(json.as_bytes()).unwrap();
    let request = Request {
        cgroups_path: &path,
        id: "test",
        systemd: false,
        rootless: true,
        resources: Some(&resources),
        devices: &[],
        annotations: &BTreeMap::new(),
    };
    let made = Cgroup::plan(&request).and_then(|mut cgroup| {
        let result = cgroup.create(&request);
        if result.is_ok() {
            println!("made {:?}", cgroup.paths());
        }
        cgroup.destroy()?;
        result
    });
    if let Err(error) = made {
        println!("{}", error.report());
    }
}
