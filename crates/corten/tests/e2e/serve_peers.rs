//! Debian's clients push to `corten registry serve` and pull from it: in the clear on loopback, and over TLS with a
//! password. Each in a world of its own.

use std::time::Duration;

use corten_testkit::run::{Finished, finish};
use corten_testkit::world::world;
use corten_testkit::{Authority, Image, Sandbox, require};

use crate::peers::missing;
use crate::sandbox;

/// `me`, whose password is `secret`.
const USERS: &str = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// `$OPEN` is a registry for everybody, `$CLOSED` one over TLS with a password; `$WORK/certs` has what a client needs to
/// believe it, and `digest REPOSITORY:TAG` says what the open one has there.
const SERVERS: &str = r#"
trap '[ $? = 0 ] || cat "$STATE/log/open" "$STATE/log/closed"' EXIT
ip address add 10.7.7.1/32 dev lo
OPEN=127.0.0.1:5000
CLOSED=10.7.7.1:5443
REFUSED="password was asked for"
"$CORTEN" registry serve --data "$STATE/open" --listen $OPEN >"$STATE/log/open" 2>&1 &
open=$!
"$CORTEN" registry serve --data "$STATE/closed" --listen $CLOSED --tls-cert "$WORK/server.crt" --tls-key "$WORK/server.key" \
  --htpasswd "$WORK/users" >"$STATE/log/closed" 2>&1 &
closed=$!
tries=0
until grep -q listens "$STATE/log/open" && grep -q listens "$STATE/log/closed"; do
  tries=$((tries + 1)); [ $tries -lt 600 ] || { cat "$STATE/log/open" "$STATE/log/closed"; exit 1; }; sleep 0.1
done
digest() { "$CORTEN" registry ls --data "$STATE/$1" "$2" --format '{{.Tag}} {{.Digest}}' --no-trunc; }
"#;

/// Both servers end well when they are asked to.
const END: &str = r#"
kill $open $closed; wait $open; wait $closed; echo "both ended"
"#;

fn run(sandbox: &Sandbox, script: &str) -> Finished {
    let work = sandbox.work();
    Image::tiny().write_docker_archive(&work.join("tiny.tar"));
    let authority = Authority::new();
    authority.server(&["10.7.7.1"]).write(&work, "server", "crt");
    std::fs::create_dir_all(work.join("certs")).unwrap();
    std::fs::write(work.join("certs/ca.crt"), authority.pem()).unwrap();
    std::fs::write(work.join("users"), USERS).unwrap();
    let script = format!(
        "WORK={}\nCORTEN={}\nexport HOME=$STATE\n{SERVERS}\n{script}\n{END}",
        work.display(),
        env!("CARGO_BIN_EXE_corten")
    );
    let mut command = world(&sandbox.path().join("world"), &script);
    command.env("CORTEN_TEST_SANDBOX", sandbox.path());
    finish(command, None, Duration::from_secs(180))
}

#[test]
fn skopeo_copies_inspects_lists_and_deletes() {
    let absent = missing(&["skopeo"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    let shown = run(
        &sandbox,
        r#"
        skopeo copy -q --dest-tls-verify=false docker-archive:"$WORK/tiny.tar" docker://$OPEN/team/app:1
        skopeo copy -q --src-tls-verify=false --dest-tls-verify=false docker://$OPEN/team/app:1 docker://$OPEN/other/app:2
        skopeo copy -q --src-tls-verify=false docker://$OPEN/other/app:2 dir:"$STATE/back"
        there=$(skopeo inspect --tls-verify=false --format '{{.Digest}}' docker://$OPEN/team/app:1)
        [ "$there" = "sha256:$(sha256sum <"$STATE/back/manifest.json" | cut -d' ' -f1)" ] && echo "the same comes back"
        digest open team/app | grep -c "$there"
        skopeo list-tags --tls-verify=false docker://$OPEN/team/app | grep '"1"'
        skopeo delete --tls-verify=false docker://$OPEN/team/app:1
        skopeo inspect --tls-verify=false docker://$OPEN/team/app:1 2>&1 | grep -o 'manifest unknown' | head -n 1
        skopeo copy -q --dest-cert-dir "$WORK/certs" docker-archive:"$WORK/tiny.tar" docker://$CLOSED/app:1 2>/dev/null || echo "$REFUSED"
        skopeo copy -q docker-archive:"$WORK/tiny.tar" docker://$CLOSED/app:1 2>&1 | grep -o 'unknown authority' | head -n 1
        skopeo copy -q --dest-cert-dir "$WORK/certs" --dest-creds me:secret docker-archive:"$WORK/tiny.tar" docker://$CLOSED/app:1
        skopeo inspect --cert-dir "$WORK/certs" --creds me:secret --format 'closed {{.Architecture}}' docker://$CLOSED/app:1
        skopeo inspect --cert-dir "$WORK/certs" --creds me:wrong docker://$CLOSED/app:1 >/dev/null 2>&1 || echo "wrong $?"
        "#,
    );
    shown.ok().shows("the same comes back\n1\n").shows("\"1\"").shows("manifest unknown");
    shown.shows("password was asked for").shows("unknown authority").shows("closed ").shows("wrong 1");
    shown.shows("both ended");
}

#[test]
fn podman_and_buildah_push_and_pull() {
    let absent = missing(&["podman", "buildah", "conmon"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    let shown = run(
        &sandbox,
        r#"
        export PODMAN_IGNORE_CGROUPSV1_WARNING=1
        podman() { command podman --cgroup-manager cgroupfs --events-backend file "$@"; }
        podman load -q -i "$WORK/tiny.tar"
        podman push -q --tls-verify=false --digestfile "$STATE/pushed" tiny:latest $OPEN/podman/app:1
        digest open podman/app | grep -c "$(cat "$STATE/pushed")"
        podman rmi -f tiny:latest >/dev/null
        podman pull -q --tls-verify=false $OPEN/podman/app:1
        podman inspect --format 'pulled {{.Digest}}' $OPEN/podman/app:1 | grep -c "$(cat "$STATE/pushed")"
        podman push -q --cert-dir "$WORK/certs" $OPEN/podman/app:1 $CLOSED/podman/app:1 2>/dev/null || echo "$REFUSED"
        echo secret | podman login --cert-dir "$WORK/certs" -u me --password-stdin $CLOSED
        podman push -q --cert-dir "$WORK/certs" $OPEN/podman/app:1 $CLOSED/podman/app:1
        podman rmi -f $OPEN/podman/app:1 >/dev/null
        podman pull -q --cert-dir "$WORK/certs" $CLOSED/podman/app:1 >/dev/null && echo "pulled with a login"
        buildah pull -q --tls-verify=false $OPEN/podman/app:1 >/dev/null
        container=$(buildah from --pull-never $OPEN/podman/app:1)
        buildah config --label by=buildah "$container"
        buildah commit -q "$container" built >/dev/null
        buildah push -q --tls-verify=false built $OPEN/buildah/app:1
        buildah push -q --cert-dir "$WORK/certs" --creds me:secret built $CLOSED/buildah/app:1
        podman pull -q --tls-verify=false $OPEN/buildah/app:1 >/dev/null
        podman inspect --format 'built {{.Labels.by}}' $OPEN/buildah/app:1
        buildah rm "$container" >/dev/null
        podman rmi -f -a >/dev/null
        "#,
    );
    shown.ok().shows("Login Succeeded!").shows("password was asked for").shows("pulled with a login");
    shown.shows("built buildah").shows("both ended");
    assert_eq!(shown.stdout.lines().filter(|line| *line == "1").count(), 2, "{}", shown.transcript());
}

#[test]
fn docker_pushes_and_pulls() {
    let absent = missing(&["dockerd", "docker", "containerd"]);
    require!(absent.is_none(), "{}", absent.unwrap());
    let sandbox = sandbox();
    let shown = run(
        &sandbox,
        r#"
        mkdir -p /etc/docker "$STATE/docker/certs.d/$CLOSED"
        cp "$WORK/certs/ca.crt" "$STATE/docker/certs.d/$CLOSED/"
        mount --bind "$STATE/docker" /etc/docker
        dockerd --data-root /var/lib/docker --exec-root /run/docker --pidfile /run/docker.pid -H unix:///run/docker.sock \
          --bridge=none --iptables=false --ip-forward=false >"$STATE/log/dockerd" 2>&1 &
        daemon=$!
        tries=0
        until docker version >/dev/null 2>&1; do
          tries=$((tries + 1)); [ $tries -lt 600 ] || { tail -n 20 "$STATE/log/dockerd"; exit 1; }; sleep 0.1
        done
        docker load -q -i "$WORK/tiny.tar"
        docker tag tiny:latest $OPEN/docker/app:1
        docker push -q $OPEN/docker/app:1
        docker rmi -f tiny:latest $OPEN/docker/app:1 >/dev/null
        docker pull -q $OPEN/docker/app:1
        docker inspect --format '{{index .RepoDigests 0}}' $OPEN/docker/app:1 | cut -d@ -f2 >"$STATE/pulled"
        digest open docker/app | grep -c "$(cat "$STATE/pulled")"
        docker tag $OPEN/docker/app:1 $CLOSED/docker/app:1
        docker push -q $CLOSED/docker/app:1 >/dev/null 2>&1 || echo "$REFUSED"
        echo wrong | docker login -u me --password-stdin $CLOSED 2>&1 | grep -i -o unauthorized | head -n 1
        echo secret | docker login -u me --password-stdin $CLOSED 2>/dev/null
        docker push -q $CLOSED/docker/app:1
        docker rmi -f $CLOSED/docker/app:1 $OPEN/docker/app:1 >/dev/null
        docker pull -q $CLOSED/docker/app:1
        docker manifest inspect $CLOSED/docker/app:1 2>/dev/null | grep -c schemaVersion || true
        kill $daemon; wait $daemon || true
        "#,
    );
    shown.ok().shows("127.0.0.1:5000/docker/app:1\n1\n").shows("password was asked for");
    shown.shows("Login Succeeded").shows("10.7.7.1:5443/docker/app:1").shows("both ended");
    assert!(shown.stdout.to_lowercase().contains("unauthorized"), "{}", shown.transcript());
}

#[test]
fn containerd_pushes_and_pulls() {
    let absent = missing(&["containerd", "ctr"]);
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
          tries=$((tries + 1)); [ $tries -lt 600 ] || { tail -n 20 "$STATE/log/containerd"; exit 1; }; sleep 0.1
        done
        ctr image import "$WORK/tiny.tar" >/dev/null
        image=$(ctr image ls -q | head -n 1)
        ctr image push --plain-http $OPEN/ctr/app:1 "$image" >/dev/null
        ctr image rm --sync "$image" >/dev/null
        ctr image pull --plain-http $OPEN/ctr/app:1 >/dev/null
        there=$(ctr image ls | grep $OPEN/ctr/app:1 | grep -o 'sha256:[0-9a-f]*')
        digest open ctr/app | grep -c "$there"
        ctr image push --tlscacert "$WORK/certs/ca.crt" $CLOSED/ctr/app:1 $OPEN/ctr/app:1 2>&1 | grep -o '401 Unauthorized'
        ctr image push --tlscacert "$WORK/certs/ca.crt" --user me:secret $CLOSED/ctr/app:1 $OPEN/ctr/app:1 >/dev/null
        ctr image rm --sync $OPEN/ctr/app:1 >/dev/null
        ctr image pull --tlscacert "$WORK/certs/ca.crt" --user me:secret $CLOSED/ctr/app:1 >/dev/null
        ctr image ls -q | grep -c $CLOSED/ctr/app:1
        kill $daemon; wait $daemon || true
        "#,
    );
    shown.ok().shows("1\n401 Unauthorized\n1\n").shows("both ended");
}
