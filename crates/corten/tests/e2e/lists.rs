//! ps, images, inspect, rm, info, version, --name, --cidfile, completions: docker's words and shapes.

use serde_json::Value;

use crate::sandbox;

#[test]
fn names_are_unique_and_the_cidfile_has_the_id() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let file = sandbox.work().join("cid");
    let file = file.to_str().unwrap();
    sandbox.corten(["run", "--name", "first", "--cidfile", file, &tiny, "true"]).ok();
    let id = std::fs::read_to_string(file).unwrap();
    sandbox.corten(["inspect", "--format", "{{.Id}}", "first"]).ok().prints(&id);
    sandbox.corten(["run", "--name", "first", &tiny, "true"]).code(125).complains("first");
    sandbox.corten(["run", "--cidfile", file, &tiny, "true"]).code(125).complains(file);
    sandbox.corten(["run", "--name", "not/a/name", &tiny, "true"]).code(125).complains("not/a/name");
    sandbox.corten(["rm", &id[..12]]).ok().prints(&id[..12]);
}

#[test]
fn ps_shows_dockers_columns() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--name", "done", &tiny, "sh", "-c", "exit 4"]).code(4);
    let table = sandbox.corten(["ps"]);
    assert_eq!(
        table.ok().stdout.split_whitespace().collect::<Vec<_>>().join(" "),
        "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES"
    );
    sandbox.corten(["ps", "-a"]).ok().shows("tiny").shows("\"sh -c 'exit 4'\"").shows("Exited (4)").shows("done");
    sandbox.corten(["ps", "-a", "--format", "{{.Names}} {{.Image}} {{.State}}"]).ok().prints("done tiny:latest exited");
    sandbox.corten(["ps", "-a", "--filter", "name=nothing", "-q"]).ok().prints("");
    sandbox.corten(["rm", "done"]).ok().prints("done");
}

#[test]
fn images_shows_what_was_loaded() {
    let mut sandbox = sandbox();
    sandbox.tiny();
    let table = sandbox.corten(["images"]);
    table.ok().shows("REPOSITORY").shows("IMAGE ID").shows("tiny").shows("latest");
    let id = sandbox.corten(["images", "-q", "--no-trunc"]);
    assert!(id.ok().text().starts_with("sha256:"), "{}", id.transcript());
}

#[test]
fn inspect_is_dockers_document() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--name", "seen", "-e", "A=b", &tiny, "true"]).ok();
    let document: Value = serde_json::from_str(sandbox.corten(["inspect", "seen"]).ok().text()).unwrap();
    let container = &document[0];
    assert_eq!(container["Name"], "/seen");
    assert_eq!(container["State"]["Status"], "exited");
    assert_eq!(container["State"]["ExitCode"], 0);
    assert_eq!(container["Path"], "true");
    assert_eq!(container["Config"]["Image"], "tiny:latest");
    assert!(container["Config"]["Env"].as_array().unwrap().contains(&"A=b".into()), "{container}");
    assert!(container["Created"].as_str().unwrap().ends_with('Z'), "{container}");
    let image: Value = serde_json::from_str(sandbox.corten(["inspect", &tiny]).ok().text()).unwrap();
    assert_eq!(image[0]["RepoTags"][0], "tiny:latest");
    sandbox.corten(["rm", "seen"]).ok();
}

#[test]
fn info_and_version_name_this_machine() {
    let sandbox = sandbox();
    sandbox.corten(["version"]).ok().shows(env!("CARGO_PKG_VERSION"));
    sandbox.corten(["--version"]).ok().shows(env!("CARGO_PKG_VERSION"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    sandbox.corten(["info"]).ok().shows(kernel.trim()).shows("Cgroup");
    let info: Value = serde_json::from_str(sandbox.corten(["info", "--format", "{{json .}}"]).ok().text()).unwrap();
    assert_eq!(info["KernelVersion"], kernel.trim());
}

#[test]
fn completions_come_for_every_shell() {
    let sandbox = sandbox();
    for shell in ["bash", "zsh", "fish"] {
        sandbox.corten(["completion", shell]).ok().shows("corten").shows("run");
    }
}

#[test]
fn help_is_there_for_every_command() {
    let sandbox = sandbox();
    sandbox.corten(["--help"]).ok().shows("run");
    for command in ["run", "ps", "rm", "images", "load", "inspect", "info", "version"] {
        sandbox.corten([command, "--help"]).ok().shows("Usage:");
    }
}
