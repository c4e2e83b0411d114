//! A private mount and network namespace in which real engines keep their state, sockets and interfaces to themselves.

use std::path::Path;
use std::process::Command;

/// A command that runs `script` by `sh` in a private world: /run, /tmp-free state below `state` (bound over /var/lib and
/// /etc/cni), only the loopback interface. Everything in it dies with the script.
///
/// `unshare --pid --kill-child` makes sure of that: the script is pid 1 of its own pid namespace.
pub fn world(state: &Path, script: &str) -> Command {
    for folder in ["run", "lib", "log"] {
        std::fs::create_dir_all(state.join(folder)).unwrap();
    }
    let state = state.display();
    let body = format!(
        "set -eu\n\
         mount --bind {state}/run /run\n\
         mount --bind {state}/lib /var/lib\n\
         ip link set lo up 2>/dev/null || true\n\
         export STATE={state}\n\
         {script}\n"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    command.args(["sh", "-c", &body]);
    command
}
