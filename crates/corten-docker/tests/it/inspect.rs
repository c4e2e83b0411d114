//! `inspect` against what docker 28.5 printed for the same objects: the same names in the same order, and the same values
//! but for what belongs to docker's own engine.

use corten_docker::inspect;
use corten_docker::template::{ObjectKind, Template, Value};

use crate::{exited, images};

/// Values of docker's own engine, of its storage driver, or of the request that the engine does not keep.
const OF_THE_ENGINE: [&str; 14] = [
    "ResolvConfPath",
    "HostnamePath",
    "HostsPath",
    "LogPath",
    "Driver",
    "GraphDriver",
    "Runtime",
    "MaskedPaths",
    "NetworkID",
    "Name",
    "LastTagTime",
    "RestartCount",
    "SandboxID",
    "StdinOnce",
];

const HOST: inspect::Host<'_> = inspect::Host { driver: "overlay2", has_cgroup2: false };

/// Every difference, as the path to it.
fn differences(path: &str, docker: &Value, corten: &Value, found: &mut Vec<String>) {
    match (docker, corten) {
        (Value::Object(left), Value::Object(right)) => {
            let names = |object: &corten_docker::template::Object| {
                let mut names: Vec<_> = object.fields.iter().map(|(name, _)| name.clone()).collect();
                if object.kind == ObjectKind::Map && !path.is_empty() {
                    names.sort();
                }
                names
            };
            let own = OF_THE_ENGINE.iter().any(|name| path.ends_with(name));
            let (mut wanted, mut got) = (names(left), names(right));
            wanted.sort();
            got.sort();
            if wanted != got && !own {
                found.push(format!("{path}: docker has {wanted:?}, corten has {got:?}"));
            }
            for (name, value) in &left.fields {
                if let Some(other) = right.get(name).filter(|_| !OF_THE_ENGINE.contains(&name.as_str())) {
                    differences(&format!("{path}.{name}"), value, other, found);
                }
            }
        }
        (Value::List(left), Value::List(right)) if left.len() == right.len() => {
            for (index, (one, other)) in left.iter().zip(right.iter()).enumerate() {
                differences(&format!("{path}[{index}]"), one, other, found);
            }
        }
        _ if docker.to_json() != corten.to_json() => {
            found.push(format!("{path}: docker {}, corten {}", docker.to_json(), corten.to_json()));
        }
        _ => {}
    }
}

fn compare(docker: &str, corten: &Value) {
    let docker: Value = serde_json::from_str(docker).unwrap();
    let Value::List(documents) = docker else { panic!("a list of documents") };
    let mut found = Vec::new();
    differences("", &documents[0], corten, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(order(&documents[0]), order(corten));
}

/// The names of the outermost fields.
fn order(document: &Value) -> Vec<String> {
    let Value::Object(object) = document else { panic!("a document") };
    object.fields.iter().map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_container_is_shown_as_docker_shows_it() {
    compare(include_str!("data/container.json"), &inspect::container(&exited(), HOST, None));
}

#[test]
fn an_image_is_shown_as_docker_shows_it() {
    compare(include_str!("data/image.json"), &inspect::image(&images()[1], HOST));
}

#[test]
fn templates_see_what_docker_s_see() {
    let document = inspect::container(&exited(), HOST, None);
    let render = |template: &str| Template::parse("", template).unwrap().render(&document).map_err(|e| e.to_string());
    for (template, text) in [
        ("{{.State.Status}} {{.State.ExitCode}}", "exited 3"),
        ("{{.Config.Entrypoint}} {{.Config.Volumes}} {{.HostConfig.Binds}}", "[] map[] [/tmp:/mnt:ro]"),
        ("{{.Config.Labels}} {{index .Config.Labels \"a\"}}|{{index .Config.Labels \"zz\"}}|", "map[a:b] b||"),
        ("{{range .Mounts}}{{.Source}}:{{.Destination}}{{end}}", "/tmp:/mnt"),
        ("{{json .Config.Cmd}}", "[\"sh\",\"-c\",\"echo hi; exit 3\"]"),
        ("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "104857600 1500000000"),
        ("{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}", "none"),
        ("{{join .Config.Env \" \"}}", "FOO=bar PATH=/bin:/usr/bin:/sbin:/usr/sbin"),
        ("{{len .Config.Env}} {{slice .Id 0 12}}", "2 0f8cf455ab84"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(text), "{template}");
    }
    assert_eq!(
        render("{{.State.Nope}}").unwrap_err(),
        "template: :1:8: executing \"\" at <.State.Nope>: map has no entry for key \"Nope\""
    );
}
