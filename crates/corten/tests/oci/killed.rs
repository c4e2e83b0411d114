//! A runtime that is killed at any moment leaves a container that `delete --force` removes wholly.

use super::*;

#[test]
fn a_killed_runtime_leaves_nothing_that_delete_cannot_remove() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    let directory = bundle.directory.to_str().unwrap();
    for step in 0..60_u32 {
        let command = if step % 2 == 0 { "create" } else { "run" };
        let mut child = sandbox.runtime_command([command, "-b", directory, "c"]);
        child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().unwrap();
        std::thread::park_timeout(Duration::from_micros(u64::from(step) * 137));
        child.kill().unwrap();
        child.wait().unwrap();
        delete(&sandbox);
        sandbox.runtime(["state", "c"]).code(1);
    }
    run(&sandbox, &script(&sandbox, "echo fine")).ok().prints("fine");
}

#[test]
fn a_killed_start_or_exec_leaves_a_container_that_still_obeys() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    for step in 0..20_u32 {
        detached(&sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
        for words in [&["start", "c"][..], &["exec", "c", "sleep", "1000"]] {
            let mut command = sandbox.runtime_command(words);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            std::thread::park_timeout(Duration::from_micros(u64::from(step) * 211));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        state(&sandbox);
        delete(&sandbox);
        sandbox.runtime(["state", "c"]).code(1);
    }
}
