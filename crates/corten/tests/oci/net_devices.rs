//! Interfaces moved into the container, in a network namespace that the test makes for itself.

use corten_testkit::run::finish;
use corten_testkit::skip::program;
use corten_types::runtime_spec::NetDevice;

use super::*;

/// `run` of the bundle where a veth pair `nv0`, `nv1` is all there is; `nv0` has an address.
fn run_beside_a_veth(sandbox: &Sandbox, bundle: &Bundle) -> Finished {
    let runtime = sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]);
    let mut command = sandbox.command("unshare");
    let script = "ip link add nv0 type veth peer name nv1 && ip addr add 10.55.0.2/24 dev nv0 && exec \"$@\"";
    command.args(["-n", "sh", "-ec", script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    finish(command, None, LIMIT)
}

fn moving(sandbox: &Sandbox, host: &str, inside: &str) -> Bundle {
    let mut bundle =
        script(sandbox, "grep -o '^ *[a-z0-9]*:' /proc/net/dev; cat /proc/net/fib_trie | grep -c 10.55.0.2");
    bundle.linux().net_devices.insert(host.to_owned(), NetDevice { name: inside.to_owned() });
    bundle.write();
    bundle
}

#[test]
fn an_interface_is_moved_with_its_addresses_and_renamed() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "moves interfaces of a network namespace of root's");
    corten_testkit::require!(program("ip").is_some(), "needs `ip` to make interfaces");
    let moved = run_beside_a_veth(&sandbox, &moving(&sandbox, "nv0", "eth0"));
    let words: Vec<&str> = moved.ok().text().split_whitespace().collect();
    assert!(words.contains(&"eth0:") && words.last().is_some_and(|count| *count != "0"), "{}", moved.transcript());
    let numbered = run_beside_a_veth(&sandbox, &moving(&sandbox, "nv0", "net%d"));
    numbered.ok().shows("net0:");
}

#[test]
fn an_interface_that_cannot_be_moved_is_named_and_nothing_is_left() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "moves interfaces of a network namespace of root's");
    corten_testkit::require!(program("ip").is_some(), "needs `ip` to make interfaces");
    run_beside_a_veth(&sandbox, &moving(&sandbox, "nope", "")).code(1).complains("no interface `nope`");
    run_beside_a_veth(&sandbox, &moving(&sandbox, "nv0", "lo")).code(1).complains("already has an interface `lo`");
}
