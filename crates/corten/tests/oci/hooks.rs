//! Hooks: order, namespaces, state on standard input, time-outs and what a failure does.

use corten_types::runtime_spec::{Hook, Hooks};

use super::*;

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn list<'a>(hooks: &'a mut Hooks, kind: &str) -> &'a mut Vec<Hook> {
    match kind {
        "prestart" => &mut hooks.prestart,
        "createRuntime" => &mut hooks.create_runtime,
        "createContainer" => &mut hooks.create_container,
        "startContainer" => &mut hooks.start_container,
        "poststart" => &mut hooks.poststart,
        _ => &mut hooks.poststop,
    }
}

fn shell(script: &str) -> Hook {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    Hook { path: "/bin/sh".into(), args, env: vec!["PATH=/bin:/usr/bin".into()], timeout: None }
}

/// A bundle whose hooks of every kind append a line to a log that is also seen inside.
fn logging(sandbox: &Sandbox, program: &str) -> (Bundle, std::path::PathBuf) {
    let mut bundle = script(sandbox, program);
    let out = sandbox.directory("out");
    let log = out.join("log");
    // The same path inside and outside, so that one script serves both.
    bundle.mount(out.to_str().unwrap(), "bind", out.to_str().unwrap(), &["bind", "rw"]);
    let mut hooks = Hooks::default();
    for kind in KINDS {
        let script =
            format!("printf '%s %s ' {kind} $(readlink /proc/self/ns/mnt) >>{0}; cat >>{0}; echo >>{0}", log.display());
        list(&mut hooks, kind).push(shell(&script));
    }
    bundle.spec.hooks = Some(hooks);
    bundle.write();
    (bundle, log)
}

#[test]
fn every_kind_runs_in_order_and_place_with_the_state_on_its_input() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "reads the log as root wrote it");
    let (bundle, log) = logging(&sandbox, "true");
    run(&sandbox, &bundle).ok();
    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<(&str, &str, Value)> = text
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (kind, namespace) = (words.next().unwrap(), words.next().unwrap());
            (kind, namespace, serde_json::from_str(words.next().unwrap()).expect(line))
        })
        .collect();
    assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), KINDS);
    let host = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    for (kind, namespace, state) in &lines {
        let inside = matches!(*kind, "createContainer" | "startContainer");
        assert_eq!(*namespace != host.to_str().unwrap(), inside, "{kind}");
        let status = match *kind {
            "prestart" | "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            "poststart" => "running",
            _ => "stopped",
        };
        assert_eq!((&state["id"], &state["status"]), (&"c".into(), &status.into()), "{kind}");
        assert_eq!(state["bundle"], bundle.directory.to_str().unwrap(), "{kind}");
        assert!(state["ociVersion"].is_string(), "{kind}");
    }
}

#[test]
fn a_failed_hook_before_the_program_stops_the_container() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let sandbox = sandbox();
        let mut bundle = script(&sandbox, "echo program ran");
        let mut hooks = Hooks::default();
        list(&mut hooks, kind).push(shell("echo hook says no >&2; exit 3"));
        bundle.spec.hooks = Some(hooks);
        bundle.write();
        let finished = run(&sandbox, &bundle);
        finished.code(1).prints("").complains("hook");
        sandbox.runtime(["state", "c"]).code(1);
    }
}

#[test]
fn a_failed_poststart_hook_ends_the_container() {
    let sandbox = sandbox();
    let mut bundle = sleeper(&sandbox);
    bundle.spec.hooks = Some(Hooks { poststart: vec![shell("exit 1")], ..Hooks::default() });
    bundle.write();
    detached(&sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    sandbox.runtime(["start", "c"]).code(1).complains("poststart");
    let ended = corten_testkit::run::eventually(LIMIT, || {
        let state = sandbox.runtime(["state", "c"]);
        state.code != 0 || state.stdout.contains("\"stopped\"")
    });
    assert!(ended);
    delete(&sandbox);
}

#[test]
fn a_failed_poststop_hook_keeps_nothing_from_being_deleted() {
    let sandbox = sandbox();
    let log = sandbox.work().join("log");
    let mut bundle = script(&sandbox, "true");
    let after = shell(&format!("echo second >{}", log.display()));
    bundle.spec.hooks = Some(Hooks { poststop: vec![shell("exit 1"), after], ..Hooks::default() });
    bundle.write();
    run(&sandbox, &bundle).ok();
    sandbox.runtime(["state", "c"]).code(1);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "second\n");
}

#[test]
fn a_hook_beyond_its_time_is_killed() {
    let sandbox = sandbox();
    let mut bundle = script(&sandbox, "true");
    let mut hook = shell("exec sleep 1000");
    hook.timeout = Some(1);
    bundle.spec.hooks = Some(Hooks { create_runtime: vec![hook], ..Hooks::default() });
    bundle.write();
    let finished = run(&sandbox, &bundle);
    finished.code(1);
    assert!(finished.elapsed < Duration::from_secs(10), "{}", finished.transcript());
    sandbox.runtime(["state", "c"]).code(1);
}

#[test]
fn a_start_container_hook_has_the_programs_environment_where_it_has_none() {
    let sandbox = sandbox();
    let mut bundle = script(&sandbox, "true");
    bundle.process().env.push("WORD=programs".into());
    let hook = |env: &[&str]| Hook {
        env: env.iter().map(ToString::to_string).collect(),
        ..shell("test \"$WORD\" = programs && test -n \"$HOME\"")
    };
    bundle.spec.hooks = Some(Hooks { start_container: vec![hook(&[])], ..Hooks::default() });
    bundle.write();
    run(&sandbox, &bundle).ok();
    bundle.spec.hooks = Some(Hooks { start_container: vec![hook(&["WORD=hooks"])], ..Hooks::default() });
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("startContainer");
    // Nothing of the container's reaches a program of the host.
    bundle.spec.hooks = Some(Hooks { create_runtime: vec![hook(&[])], ..Hooks::default() });
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("createRuntime");
}
