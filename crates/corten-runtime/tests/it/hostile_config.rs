//! Malformed and hostile `config.json`: one clear error that names the field, and nothing left behind.
//!
//! Tests have many threads, and a container is cloned from a single one: whatever gets as far as the clone fails with an
//! error that names no field. So everything here is also seen to be refused before it.

use std::path::Path;

use corten_runtime::runtime::{CreateRequest, Options, Runtime};
use corten_testkit::Bundle;
use corten_testkit::leak::{Scope, Snapshot};
use serde_json::{Value, json};

/// A bundle that is fine, a runtime of its own, and what there was before.
struct Ground {
    directory: tempfile::TempDir,
    document: Value,
    runtime: Runtime,
    before: Snapshot,
    scope: Scope,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("corten-test-hostile-").tempdir().unwrap();
        let mut bundle = Bundle::new(&directory.path().join("bundle"), ["true"]);
        bundle.linux().cgroups_path = format!("/{}", directory.path().file_name().unwrap().display());
        let document = serde_json::to_value(&bundle.spec).unwrap();
        let root = directory.path().join("state");
        let runtime = Runtime::new(Options { root: root.clone(), systemd_cgroup: false, rootless: None });
        let scope = Scope::Sandbox { directory: directory.path().to_owned(), roots: vec![root], kept: &[] };
        let before = Snapshot::take(&scope);
        Self { directory, document, runtime, before, scope }
    }

    /// The report of the refusal of `config`.
    fn refusal(&self, config: &[u8]) -> String {
        let bundle = self.directory.path().join("bundle");
        std::fs::write(bundle.join("config.json"), config).unwrap();
        let request = CreateRequest { id: "hostile".into(), bundle, ..CreateRequest::default() };
        let report = match self.runtime.create(request) {
            Ok(_) => panic!("created: {}", String::from_utf8_lossy(config)),
            Err(error) => error.report(),
        };
        let state = self.directory.path().join("state");
        let left = state.read_dir().map_or(0, Iterator::count);
        assert_eq!(left, 0, "state of a container that was refused: {report}");
        report
    }

    /// The document with `value` at `pointer` (`/linux/namespaces/0/type`; `-` appends).
    fn with(&self, pointer: &str, value: Value) -> Value {
        let mut document = self.document.clone();
        let mut place = &mut document;
        for step in pointer.split('/').skip(1) {
            place = match place {
                Value::Array(list) => {
                    if step == "-" {
                        list.push(Value::Null);
                    }
                    let index = step.parse().unwrap_or(list.len() - 1);
                    &mut list[index]
                }
                other => {
                    if !other.is_object() {
                        *other = json!({});
                    }
                    let step = step.replace("~1", "/");
                    other.as_object_mut().unwrap().entry(step).or_insert(Value::Null)
                }
            };
        }
        *place = value;
        document
    }

    fn finish(self) {
        self.before.settle(&self.scope, |_| false).unwrap();
    }
}

fn bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).unwrap()
}

#[test]
fn a_document_cut_anywhere_is_refused() {
    let ground = Ground::new();
    let whole = bytes(&ground.document);
    for length in (0..whole.len()).step_by(7).chain(whole.len() - 20..whole.len()) {
        let report = ground.refusal(&whole[..length]);
        assert!(report.contains("config.json"), "{report}");
    }
    for noise in [&b"\xff\xfe{}"[..], b"null", b"[]", b"3", b"{\"a\":", b"{}{}", b"\0", &[b'['; 100_000]] {
        let report = ground.refusal(noise);
        assert!(report.contains("config.json"), "{report}");
    }
    ground.finish();
}

/// Every value of the document, as its pointer and as an error names it.
fn places(value: &Value, pointer: &str, name: &str, found: &mut Vec<(String, String, Value)>) {
    let below: Vec<(String, String, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let dot = if name.is_empty() { "" } else { "." };
                (format!("{pointer}/{}", key.replace('/', "~1")), format!("{name}{dot}{key}"), value)
            })
            .collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("{pointer}/{index}"), format!("{name}[{index}]"), value))
            .collect(),
        _ => Vec::new(),
    };
    for (pointer, name, value) in below {
        found.push((pointer.clone(), name.clone(), value.clone()));
        places(value, &pointer, &name, found);
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_wherever_it_stands() {
    let ground = Ground::new();
    let mut found = Vec::new();
    places(&ground.document, "", "", &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for (pointer, name, value) in found {
        let wrong = match value {
            Value::String(_) => vec![json!(7), json!(["x"]), json!({})],
            Value::Number(_) => vec![json!("7"), json!(-1.5), json!([])],
            Value::Bool(_) => vec![json!("true"), json!(1)],
            Value::Array(_) => vec![json!("x"), json!({ "0": 1 }), json!(7)],
            _ => vec![json!("x"), json!(7), json!(false)],
        };
        for wrong in wrong {
            let report = ground.refusal(&bytes(&ground.with(&pointer, wrong.clone())));
            assert!(report.contains(&name), "{pointer} as {wrong}: {report}");
        }
    }
    ground.finish();
}

/// Pointer, value, and how the error names the place.
fn hostile_values() -> Vec<(&'static str, Value, &'static str)> {
    let long = |length: usize| json!("x".repeat(length));
    let namespace = |value: Value| json!([{"type": "mount"}, value]);
    vec![
        ("/ociVersion", json!("moon"), "ociVersion"),
        ("/ociVersion", json!("9.0.0"), "ociVersion"),
        ("/process", json!(null), "process"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\0b"]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/cwd", json!(""), "process.cwd"),
        ("/process/cwd", json!("/a\0b"), "process.cwd"),
        ("/process/env", json!(["A=\0"]), "process.env"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/process/user/uid", json!(4_294_967_296_u64), "process.user.uid"),
        ("/process/user/additionalGids", json!([-1]), "process.user.additionalGids[0]"),
        ("/process/user/umask", json!(-1), "process.user.umask"),
        ("/process/rlimits/-", json!({"type": "RLIMIT_MOON", "hard": 1, "soft": 1}), "process.rlimits[1]"),
        ("/process/rlimits/-", json!({"type": "RLIMIT_CORE", "hard": -1, "soft": 1}), "process.rlimits[1].hard"),
        ("/process/oomScoreAdj", json!(5000), "process.oomScoreAdj"),
        ("/process/scheduler", json!({"policy": "SCHED_MOON"}), "process.scheduler"),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "flags": ["MOON"]}), "process.scheduler"),
        ("/process/ioPriority", json!({"class": "MOON"}), "process.ioPriority"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 99}), "process.ioPriority"),
        ("/process/consoleSize", json!({"height": 70_000, "width": 1}), "process.consoleSize.height"),
        ("/root", json!(null), "root"),
        ("/root/path", json!(""), "root"),
        ("/root/path", json!("missing"), "missing"),
        ("/root/path", json!("config.json"), "config.json"),
        ("/root/path", json!("a\0b"), "root"),
        ("/hostname", long(65), "hostname"),
        ("/hostname", json!("a\0b"), "hostname"),
        ("/linux/namespaces", namespace(json!({"type": "moon"})), "linux.namespaces[1].type"),
        ("/linux/namespaces", namespace(json!({"type": "mount"})), "namespaces"),
        ("/linux/namespaces", namespace(json!({"type": "pid", "path": "/nowhere"})), "/nowhere"),
        ("/linux/namespaces", namespace(json!({"type": "pid", "path": "/etc/passwd"})), "/etc/passwd"),
        ("/linux/namespaces", namespace(json!({"type": "pid", "path": "/proc/self/ns/net"})), "pid"),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]), "uidMappings"),
        (
            "/linux/uidMappings",
            json!([{"containerID": -1, "hostID": 0, "size": 1}]),
            "linux.uidMappings[0].containerID",
        ),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "vm.swappiness"),
        ("/linux/sysctl", json!({"net.ipv4/../../kernel/core_pattern": "|/x"}), "net.ipv4/../../kernel/core_pattern"),
        ("/linux/sysctl", json!({"net.ipv4.\0": "1"}), "linux.sysctl"),
        ("/linux/sysctl", json!({"": ""}), "linux.sysctl"),
        ("/linux/resources/memory", json!({"limit": 1.5}), "linux.resources.memory.limit"),
        ("/linux/resources/cpu", json!({"shares": -1}), "linux.resources.cpu.shares"),
        ("/linux/resources/pids", json!({"limit": "many"}), "linux.resources.pids.limit"),
        ("/linux/resources/devices/-", json!({"allow": true, "type": "x", "access": "r"}), "devices"),
        ("/linux/resources/devices/-", json!({"allow": true, "type": "c", "access": "rz"}), "devices"),
        ("/linux/resources/unified", json!({"../../x": "1"}), "unified"),
        ("/linux/resources/hugepageLimits", json!([{"pageSize": "../x", "limit": 1}]), "hugepageLimits"),
        (
            "/linux/resources/hugepageLimits",
            json!([{"pageSize": "2MB", "limit": -1}]),
            "linux.resources.hugepageLimits[0].limit",
        ),
        ("/linux/devices", json!([{"path": "relative", "type": "c", "major": 1, "minor": 3}]), "devices[0]"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "x", "major": 1, "minor": 3}]), "devices[0]"),
        ("/linux/rootfsPropagation", json!("moon"), "rootfsPropagation"),
        ("/linux/personality", json!({"domain": "MOON"}), "linux.personality"),
        ("/linux/intelRdt", json!({"closID": "../x"}), "intelRdt"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_MOON"}), "memoryPolicy"),
        ("/linux/maskedPaths", json!(["relative"]), "maskedPaths"),
        ("/linux/readonlyPaths", json!(["a\0b"]), "readonlyPaths"),
        ("/linux/netDevices", json!({"eth0": {"name": "../x"}}), "netDevices"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_MOON"}), "linux.seccomp.defaultAction"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            "linux.seccomp.syscalls[0].args[0].index",
        ),
        ("/mounts/-", json!({"destination": ""}), "mounts["),
        ("/mounts/-", json!({"destination": "/x", "type": "tmpfs", "source": "a\0b"}), "mounts["),
        ("/mounts/-", json!({"destination": "/x", "type": "tmpfs", "options": ["idmap"]}), "mounts["),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"]}),
            "/nowhere",
        ),
        ("/hooks/prestart", json!([{"path": "relative"}]), "hooks.prestart[0].path"),
        ("/hooks/poststop", json!([{"path": "/bin/true", "timeout": 0}]), "hooks.poststop[0].timeout"),
        ("/hooks/createRuntime", json!([{"path": "/bin/true", "timeout": -5}]), "hooks.createRuntime[0].timeout"),
        ("/hooks/createContainer", json!([{"path": "/bin/true", "args": ["\0"]}]), "hooks.createContainer[0]"),
    ]
}

#[test]
fn hostile_values_are_refused_by_name() {
    let ground = Ground::new();
    let mut missed = Vec::new();
    for (pointer, value, name) in hostile_values() {
        let report = ground.refusal(&bytes(&ground.with(pointer, value.clone())));
        if !report.contains(name) {
            missed.push(format!("{pointer} = {value}\n{report}\n"));
        }
    }
    assert!(missed.is_empty(), "{} not named:\n\n{}", missed.len(), missed.join("\n"));
    ground.finish();
}

#[test]
fn huge_documents_are_refused_soon() {
    let ground = Ground::new();
    let large = vec![b' '; 17 * 1024 * 1024];
    assert!(ground.refusal(&large).contains("config.json"));
    let rules: Vec<Value> = (0..50_000)
        .map(|value| json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]}))
        .collect();
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
    assert!(ground.refusal(&bytes(&ground.with("/linux/seccomp", profile))).contains("linux.seccomp.syscalls"));
    let mappings: Vec<Value> = (0..100_000).map(|id| json!({"containerID": id, "hostID": id, "size": 1})).collect();
    assert!(ground.refusal(&bytes(&ground.with("/linux/uidMappings", json!(mappings)))).contains("uidMappings"));
    ground.finish();
}

#[test]
fn a_bad_name_or_bundle_is_refused() {
    let ground = Ground::new();
    for id in ["", ".", "..", "a/b", "../x", "a\0b", &"x".repeat(2000), "a b", "ä"] {
        let bundle = ground.directory.path().join("bundle");
        let request = CreateRequest { id: id.to_owned(), bundle, ..CreateRequest::default() };
        let report = ground.runtime.create(request).unwrap_err().report();
        assert!(report.contains("container"), "{report}");
    }
    for bundle in [Path::new("/nowhere"), Path::new("/etc/passwd"), Path::new("/dev/null")] {
        let request = CreateRequest { id: "hostile".into(), bundle: bundle.to_owned(), ..CreateRequest::default() };
        let report = ground.runtime.create(request).unwrap_err().report();
        assert!(report.contains("config.json"), "{report}");
    }
    ground.finish();
}
