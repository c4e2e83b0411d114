//! Flags, formats, logs, and the commands that need no container.

use super::*;

#[test]
fn list_has_three_forms() {
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.run_root().join("runtime")).unwrap();
    sandbox.give(&sandbox.run_root().join("runtime"));
    sandbox.runtime(["list", "--format", "json"]).ok().prints("null");
    start(&sandbox, &sleeper(&sandbox));
    let table = sandbox.runtime(["list"]).ok().stdout.clone();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((lines[1][0], lines[1][2], lines.len()), ("c", "running", 2));
    sandbox.runtime(["list", "-q"]).ok().prints("c");
    let json: Value = serde_json::from_str(&sandbox.runtime(["list", "-f", "json"]).ok().stdout).unwrap();
    assert_eq!((&json[0]["id"], &json[0]["status"]), (&"c".into(), &"running".into()));
    sandbox.runtime(["list", "-f", "moon"]).code(1).complains("invalid format option");
    delete(&sandbox);
}

#[test]
fn the_log_file_holds_what_engines_read() {
    let sandbox = sandbox();
    let log = sandbox.work().join("log.json");
    let words = ["--log", log.to_str().unwrap(), "--log-format", "json", "state", "nobody"];
    sandbox.runtime(words).code(1).complains("does not exist");
    let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim_end()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist"), "{line}");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    sandbox.runtime(["--log-format", "moon", "list"]).code(1).complains("log-format");
    sandbox.runtime(["--log", "/no/such/directory/log", "list"]).code(1).complains("/no/such/directory/log");
}

#[test]
fn spec_writes_a_bundle_that_runs_and_touches_no_other() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    let directory = bundle.directory.to_str().unwrap();
    sandbox.runtime(["spec", "--bundle", directory]).code(1).complains("exists");
    std::fs::remove_file(bundle.directory.join("config.json")).unwrap();
    let rootless = if sandbox.is_rootless() { "--rootless=true" } else { "--rootless=false" };
    sandbox.runtime(["spec", rootless, "--bundle", directory]).ok();
    let text = std::fs::read_to_string(bundle.directory.join("config.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["process"]["args"], serde_json::json!(["sh"]));
    let mut edited = document;
    edited["process"]["terminal"] = false.into();
    edited["process"]["args"] = serde_json::json!(["echo", "it runs"]);
    edited["linux"]["cgroupsPath"] =
        serde_json::to_value(sandbox.bundle(["true"]).linux().cgroups_path.clone()).unwrap();
    bundle.write_raw(edited.to_string().as_bytes());
    run(&sandbox, &bundle).ok().prints("it runs");
}

#[test]
fn features_is_the_specifications_document() {
    let sandbox = sandbox();
    let features: Value = serde_json::from_str(&sandbox.runtime(["features"]).ok().stdout).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    assert!(features["mountOptions"].as_array().unwrap().contains(&"rro".into()));
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn what_cannot_be_read_is_answered_with_usage() {
    let sandbox = sandbox();
    sandbox.runtime(["--help"]).ok().shows("checkpoint");
    sandbox.runtime(["--version"]).ok().shows("spec: 1.3.0");
    sandbox.runtime(["update", "--help"]).ok().shows("--pids-limit value");
    sandbox.runtime(["moon"]).code(3).complains("moon");
    sandbox.runtime(["create", "--moon", "c"]).code(1).shows("Incorrect Usage").complains("-moon");
    sandbox.runtime(["start"]).code(1).complains("requires exactly 1 argument");
    sandbox.runtime(["start", "a", "b"]).code(1).complains("requires exactly 1 argument");
    sandbox.runtime(["--root", "/", "list"]).code(1).complains("--root");
    sandbox.runtime(["--root", "/no/such/root", "list"]).code(1).complains("/no/such/root");
    sandbox.runtime(["--rootless", "perhaps", "list"]).code(1).complains("--rootless");
}
