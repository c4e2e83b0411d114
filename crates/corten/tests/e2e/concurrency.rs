//! Several commands at once on one root.

use std::process::Stdio;

use crate::sandbox;

#[test]
fn a_name_is_taken_once_however_many_ask_for_it() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let start = |_| {
        let mut command = sandbox.corten_command(["run", "-d", "--name", "same", &tiny, "sleep", "600"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let clients: Vec<_> = (0..8).map(start).collect();
    let mut winners = 0;
    for client in clients {
        let output = client.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => winners += 1,
            Some(125) => assert!(errors.contains("the container name `same` is already in use"), "{errors}"),
            other => panic!("{other:?}: {errors}"),
        }
    }
    assert_eq!(winners, 1);
    sandbox.corten(["ps", "-aq"]).ok();
    sandbox.corten(["rm", "-f", "same"]).ok();
    sandbox.corten(["ps", "-aq"]).ok().prints("");
}

#[test]
fn one_container_can_be_removed_by_many_at_once() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for _ in 0..3 {
        sandbox.corten(["run", "-d", "--rm", "--name", "gone", &tiny, "sleep", "600"]).ok();
        let remove = |_| {
            sandbox.corten_command(["rm", "-f", "gone"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let clients: Vec<_> = (0..4).map(remove).collect();
        for client in clients {
            let output = client.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let fine = output.status.success() || errors.contains("no such container") || errors.contains("No such");
            assert!(fine, "{errors}");
        }
        sandbox.corten(["ps", "-aq"]).ok().prints("");
    }
}
