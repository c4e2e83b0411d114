//! Real engines from Debian's packages start containers with our runtime, each in a world of its own: private mount,
//! network and process namespaces, its state below the sandbox.

use std::path::PathBuf;
use std::time::Duration;

use corten_testkit::run::{Finished, finish};
use corten_testkit::sandbox::other_runtime;
use corten_testkit::skip::{is_root, program};
use corten_testkit::world::world;
use corten_testkit::{Image, Sandbox, require};

use crate::sandbox;

/// Why an engine cannot be had here.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !is_root() || std::env::var_os("CORTEN_TEST_AS_USER").is_some() {
        return Some("a real engine needs root".to_owned());
    }
    if std::env::var_os("CORTEN_TEST_SLOW").is_some() {
        return Some("no real engines on an emulated machine".to_owned());
    }
    let absent: Vec<&str> = programs.iter().copied().filter(|name| program(name).is_none()).collect();
    (!absent.is_empty()).then(|| format!("not installed: {}", absent.join(", ")))
}

/// Our runtime under the name that an engine's configuration would have, and an image for it to load.
fn prepare(sandbox: &Sandbox) -> PathBuf {
    let runtime = other_runtime().unwrap_or_else(|| env!("CARGO_BIN_EXE_corten").into());
    std::os::unix::fs::symlink(runtime, sandbox.work().join("corten-runtime")).unwrap();
    Image::tiny().write_docker_archive(&sandbox.work().join("tiny.tar"));
    sandbox.work()
}

fn run(sandbox: &Sandbox, script: &str) -> Finished {
    let work = prepare(sandbox);
    let script = format!(
        "WORK={work}\nRUNTIME={work}/corten-runtime\nCGROUP={cgroup}\nexport HOME=$STATE\n\
         load() {{ {corten} --root $STATE/corten --run-root $STATE/corten-run load -i \"$1\"; }}\n{script}",
        work = work.display(),
        cgroup = sandbox.cgroup(),
        corten = env!("CARGO_BIN_EXE_corten"),
    );
    let mut command = world(&sandbox.path().join("world"), &script);
    command.env("CORTEN_TEST_SANDBOX", sandbox.path());
    finish(command, None, Duration::from_secs(120))
}

#[test]
fn podman_runs_execs_pauses_and_removes() {
    let absent = missing(&["podman", "conmon"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    let shown = run(
        &sandbox,
        r#"
        podman() { command podman --runtime "$RUNTIME" --cgroup-manager cgroupfs --events-backend file "$@"; }
        podman load -q -i "$WORK/tiny.tar"
        podman run --cgroup-parent $CGROUP --rm --network none tiny:latest sh -c 'echo hi; exit 3' || echo "run $?"
        podman run --cgroup-parent $CGROUP -d --name a --network none --memory 64m --pids-limit 50 tiny:latest sleep 600
        podman exec a sh -c 'cat /proc/1/comm; exit 7' || echo "exec $?"
        podman pause a && podman ps --filter status=paused --format '{{.Names}} paused' && podman unpause a
        podman save -q -o "$WORK/docker.tar" tiny:latest && load "$WORK/docker.tar"
        podman save -q --format oci-archive -o "$WORK/oci.tar" tiny:latest && load "$WORK/oci.tar"
        podman stop -t 1 a && podman inspect --format 'stopped {{.State.ExitCode}}' a
        podman rm -f a
        podman run --cgroup-parent $CGROUP --rm --network none -t tiny:latest sh -c 'tty; id -u' | tr -d '\r'
        podman run --cgroup-parent $CGROUP --rm --network none --read-only --cap-drop all --user 1000 tiny:latest sh -c 'grep CapBnd /proc/self/status; id -u'
        "#,
    );
    shown.ok().shows("hi\nrun 3").shows("sleep\nexec 7").shows("a paused").shows("stopped 137");
    assert_eq!(shown.stdout.matches("Loaded image").count(), 3, "{}", shown.transcript());
    shown.shows("/dev/pts/0\n0").shows("CapBnd:\t0000000000000000\n1000");
}

#[test]
fn docker_runs_execs_pauses_and_removes() {
    let absent = missing(&["dockerd", "containerd", "containerd-shim-runc-v2"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    let shown = run(
        &sandbox,
        r#"
        dockerd --data-root /var/lib/docker --exec-root /run/docker --pidfile /run/docker.pid -H unix:///run/docker.sock \
          --bridge=none --cgroup-parent=$CGROUP --iptables=false --ip-forward=false --exec-opt native.cgroupdriver=cgroupfs \
          --add-runtime corten="$RUNTIME" --default-runtime corten >"$STATE/log/dockerd" 2>&1 &
        daemon=$!
        [ -x /usr/bin/docker ] && docker() { /usr/bin/docker "$@"; }
        tries=0
        until docker version >/dev/null 2>&1; do
          tries=$((tries + 1)); [ $tries -lt 300 ] || { tail -n 20 "$STATE/log/dockerd"; exit 1; }; sleep 0.1
        done
        docker load -q -i "$WORK/tiny.tar"
        docker run --rm --network none tiny:latest sh -c 'echo hi; exit 3' || echo "run $?"
        docker run --rm --network none tiny:latest no-such-program 2>/dev/null || echo "missing $?"
        docker run -d --name app --network none --memory 64m --pids-limit 50 --cpus 0.5 tiny:latest sleep 600
        docker exec app sh -c 'cat /proc/1/comm; exit 7' || echo "exec $?"
        docker pause app && docker inspect --format '{{.State.Status}} paused' app && docker unpause app
        docker update --memory 96m --memory-swap 96m app && docker inspect --format 'memory {{.HostConfig.Memory}}' app
        docker top app -o pid,comm | grep -c sleep
        docker save -o "$WORK/saved.tar" tiny:latest && load "$WORK/saved.tar"
        docker stop -t 1 app && docker inspect --format 'stopped {{.State.ExitCode}}' app
        docker rm -f app
        docker run --rm --network none --init tiny:latest sh -c 'echo with init' || echo "init $?"
        # A machine that lacks a capability cannot give it: the reference runtime refuses then.
        held=$((0x$(sed -n 's/^CapBnd:.//p' /proc/self/status)))
        if [ $held = $(((1 << ($(cat /proc/sys/kernel/cap_last_cap) + 1)) - 1)) ]; then
          docker run --rm --network none --privileged tiny:latest sh -c 'grep -q Seccomp:.0 /proc/self/status && echo privileged'
        else
          echo privileged
        fi
        kill $daemon; wait $daemon || true
        "#,
    );
    shown.ok().shows("hi\nrun 3").shows("missing 127").shows("sleep\nexec 7").shows("paused paused");
    assert_eq!(shown.stdout.matches("Loaded image").count(), 2, "{}", shown.transcript());
    shown.shows("memory 100663296").shows("stopped 137").shows("with init").shows("privileged");
}

#[test]
fn containerd_runs_execs_pauses_and_removes() {
    let absent = missing(&["containerd", "ctr", "containerd-shim-runc-v2"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    let shown = run(
        &sandbox,
        r#"
        cat >"$STATE/config.toml" <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
END
        containerd --config "$STATE/config.toml" >"$STATE/log/containerd" 2>&1 &
        daemon=$!
        tries=0
        until ctr version >/dev/null 2>&1; do
          tries=$((tries + 1)); [ $tries -lt 300 ] || { tail -n 20 "$STATE/log/containerd"; exit 1; }; sleep 0.1
        done
        ctr image import "$WORK/tiny.tar"
        image=$(ctr image ls -q | head -n 1)
        start() { ctr run --runtime io.containerd.runc.v2 --runc-binary "$RUNTIME" "$@"; }
        start --cgroup $CGROUP/one --rm "$image" one sh -c 'echo hi; exit 3' || echo "run $?"
        start --cgroup $CGROUP/two -d --memory-limit 67108864 "$image" two sleep 600
        ctr task exec --exec-id x two sh -c 'cat /proc/1/comm; exit 7' || echo "exec $?"
        ctr task pause two && ctr task ls | grep two && ctr task resume two
        ctr task metrics two | grep -c -i memory
        ctr task kill -s KILL two
        tries=0
        until ctr task ls | grep -q 'two.*STOPPED'; do tries=$((tries + 1)); [ $tries -lt 100 ] || break; sleep 0.1; done
        ctr task rm two || echo "killed $?"
        ctr container rm two && echo removed
        kill $daemon; wait $daemon || true
        "#,
    );
    shown.ok().shows("hi\nrun 3").shows("sleep\nexec 7").shows("PAUSED").shows("removed");
}

#[test]
fn containerd_uses_our_shim() {
    let absent = missing(&["containerd", "ctr", "script"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_corten"), sandbox.work().join("containerd-shim-corten-v2")).unwrap();
    let shown = run(
        &sandbox,
        r#"
        PATH=$WORK:$PATH
        cat >"$STATE/config.toml" <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
END
        serve() { containerd --config "$STATE/config.toml" >>"$STATE/log/containerd" 2>&1 & daemon=$!; ready; }
        until_shown() { tries=0; until "$@"; do tries=$((tries + 1)); [ $tries -lt 300 ] || return 1; sleep 0.1; done; }
        ready() { until_shown ctr version >/dev/null 2>&1 || { tail -n 20 "$STATE/log/containerd"; exit 1; }; }
        serve
        ctr events >"$STATE/events" 2>/dev/null &
        follower=$!
        ctr image import "$WORK/tiny.tar"
        image=$(ctr image ls -q | head -n 1)
        start() { ctr run --runtime io.containerd.corten.v2 "$@"; }
        start --cgroup $CGROUP/one --rm "$image" one sh -c 'echo hi; exit 3' || echo "run $?"
        start --cgroup $CGROUP/none --rm "$image" none no-such-program >/dev/null 2>&1 || echo "missing $?"
        echo typed | start --cgroup $CGROUP/in --rm "$image" in sh -c 'read word; echo "got $word"; cat; echo over'
        start --cgroup $CGROUP/big --rm "$image" big sh -c 'head -c 3000000 /dev/zero' | wc -c
        start --cgroup $CGROUP/two -d --memory-limit 67108864 "$image" two sleep 600
        ctr task exec --exec-id x two sh -c 'cat /proc/1/comm; exit 7' || echo "exec $?"
        script -qec "ctr task exec -t --exec-id y two sh -c tty" /dev/null </dev/null | tr -d '\r'
        ctr task pause two && ctr task ls | grep two && ctr task resume two
        ctr task metrics two | grep -c -i memory
        ctr task ps two | wc -l
        # containerd itself may end and come back: the task does not notice.
        kill $daemon; wait $daemon || true; serve
        ctr task ls | grep 'two.*RUNNING' && echo still there
        ctr task kill -s KILL two
        until_shown sh -c 'ctr task ls | grep -q "two.*STOPPED"'
        ctr task rm two || true
        ctr container rm two && echo removed
        # A shim that is killed leaves nothing either.
        start --cgroup $CGROUP/three -d "$image" three sleep 601
        kill -KILL $(pgrep -f '[c]ontainerd-shim-corten-v2.*-id three')
        until_shown sh -c '! pgrep -x sleep -a | grep -q 601'
        until_shown sh -c '! ctr task ls | grep -q three' && ctr container rm three && echo gone
        # A group shares one shim.
        for name in pod inside; do
          start --cgroup $CGROUP/$name -d --annotation io.kubernetes.cri.sandbox-id=pod "$image" $name sleep 602
        done
        echo "shims $(pgrep -c -f '[c]ontainerd-shim-corten-v2.*-namespace')"
        for name in inside pod; do
          ctr task kill -s KILL $name; until_shown sh -c "ctr task ls | grep -q '$name.*STOPPED'"
          ctr task rm $name || true; ctr container rm $name
        done
        until_shown sh -c '! pgrep -f [c]ontainerd-shim-corten-v2.*-namespace >/dev/null' && echo no shim is left
        kill $follower 2>/dev/null || true
        grep -o '/tasks/[a-z-]*' "$STATE/events" | sort | uniq -c | tr -s ' ' | grep -c -E '/tasks/(create|start|exit|delete|exec-added|exec-started|paused|resumed)'
        kill $daemon; wait $daemon || true
        "#,
    );
    shown.ok().shows("hi\nrun 3").shows("missing 1").shows("got typed\nover").shows("3000000");
    shown.shows("sleep\nexec 7").shows("/dev/pts/0").shows("PAUSED").shows("still there");
    shown.shows("removed").shows("gone").shows("shims 1").shows("no shim is left\n8");
}
