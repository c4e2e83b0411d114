//! Our client and Debian's docker-registry: push, pull, login, resume, mount, what refers to an image, TLS.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_testkit::run::{Finished, eventually, finish};
use corten_testkit::skip::{is_root, program};
use corten_testkit::tar::Entry;
use corten_testkit::wire::Line;
use corten_testkit::{Authority, Image, Sandbox, require};

use crate::sandbox;

/// `me`, whose password is `secret`.
const USERS: &str = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// A docker-registry on a port of the kernel's choice; ends with the test.
struct DockerRegistry {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl DockerRegistry {
    /// `further` is added to its configuration; `{}` in it is a directory that `prepare` may fill.
    fn start(further: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::Builder::new().prefix("peer-registry-").tempdir().unwrap();
        let here = directory.path().display();
        prepare(directory.path());
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {here}/data}}\n  \
             delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:0\n{}",
            further.replace("{}", &here.to_string())
        );
        let (file, log) = (directory.path().join("config.yml"), directory.path().join("log"));
        std::fs::write(&file, config).unwrap();
        let out = File::create(&log).unwrap();
        let mut command = Command::new(program("docker-registry").unwrap());
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut registry = Self { child: command.spawn().unwrap(), port: 0, directory };
        let listens = eventually(Duration::from_secs(60), || {
            let log = registry.log();
            let port = log
                .split("listening on 127.0.0.1:")
                .nth(1)
                .map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap());
            registry.port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
            registry.port != 0
        });
        assert!(listens, "{}", registry.log());
        registry
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn missing() -> Option<String> {
    program("docker-registry").is_none().then(|| "docker-registry is not installed".to_owned())
}

/// An image with a layer of three MiB that do not compress.
fn large() -> Image {
    let mut state = 1u32;
    let noise: Vec<u8> = (0..3 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).unwrap()
        })
        .collect();
    Image::tiny().layer(vec![Entry::file("noise", 0o644, noise)])
}

fn digest(pushed: &Finished) -> String {
    let text = &pushed.ok().stdout;
    let start = text.find("digest: sha256:").unwrap_or_else(|| panic!("{text}")) + "digest: ".len();
    text[start..start + 71].to_owned()
}

#[test]
fn what_goes_there_comes_back_the_same_through_logins_broken_lines_and_mounts() {
    require!(missing().is_none(), "{}", missing().unwrap());
    let registry = DockerRegistry::start("auth:\n  htpasswd: {realm: test, path: {}/users}\n", |directory| {
        std::fs::write(directory.join("users"), USERS).unwrap();
    });
    let sandbox = sandbox();
    let loaded = sandbox.load(&large());
    let line = Line::to(&registry.name("").replace('/', ""));
    let name = |rest: &str| format!("{}/{rest}", line.host());
    // Who one is.
    sandbox.corten(["tag", &loaded, &name("team/app:1")]).ok();
    sandbox.corten(["push", &name("team/app:1")]).code(1).complains(&format!("`corten login {}`", line.host()));
    let login =
        |password: &[u8]| sandbox.corten_with_input(["login", "-u", "me", "--password-stdin", &line.host()], password);
    login(b"wrong").code(1).complains("incorrect username or password");
    login(b"secret").ok().shows("Login Succeeded");
    // A push whose line breaks in the middle goes on.
    line.break_up_after(1 << 20);
    let pushed = digest(&sandbox.corten(["push", &name("team/app:1")]));
    assert!(line.broke_up());
    // Another repository of the same registry: nothing is sent again.
    sandbox.corten(["tag", &loaded, &name("other/app:2")]).ok();
    sandbox.corten(["push", &name("other/app:2")]).ok().shows("Mounted from team/app");
    assert!(registry.log().contains("mount=sha256"), "{}", registry.log());
    // A pull whose line breaks goes on, in a store that has nothing.
    sandbox.corten(["rmi", "-f", &name("team/app:1"), &name("other/app:2"), &loaded]).ok();
    line.break_down_after(1 << 20);
    sandbox.corten(["pull", &name("team/app:1")]).ok().shows(&format!("Digest: {pushed}"));
    assert!(line.broke_down());
    sandbox
        .corten(["run", "--rm", "--network", "none", &name("team/app:1"), "echo", "there and back"])
        .ok()
        .prints("there and back");
    sandbox.corten(["pull", &name("team/app:nothing")]).code(1).complains("manifest unknown");
    sandbox.corten(["logout", &line.host()]).ok();
    sandbox.corten(["pull", &name("other/app:2")]).code(1);
}

#[test]
fn files_are_attached_listed_and_removed_where_the_registry_keeps_no_list_of_referrers() {
    require!(missing().is_none(), "{}", missing().unwrap());
    let registry = DockerRegistry::start("", |_| {});
    let sandbox = sandbox();
    let loaded = sandbox.load(&Image::tiny());
    let app = registry.name("app:1");
    sandbox.corten(["tag", &loaded, &app]).ok();
    let subject = digest(&sandbox.corten(["push", &app]));
    std::fs::write(sandbox.work().join("notes.txt"), "read me").unwrap();
    let attach = |kind: &str| {
        let attached = sandbox.corten(["artifact", "attach", "--artifact-type", kind, &app, "notes.txt:text/plain"]);
        attached.ok().stdout.split("Digest: ").nth(1).unwrap().trim().to_owned()
    };
    let (first, second) = (attach("application/x-first"), attach("application/x-second"));
    let listed = || sandbox.corten(["artifact", "ls", &app]);
    listed().ok().shows(&first).shows(&second).shows("application/x-first");
    let by_digest = registry.name(&format!("app@{first}"));
    sandbox.corten(["artifact", "pull", "-o", "there", &by_digest]).ok().shows("notes.txt");
    assert_eq!(std::fs::read_to_string(sandbox.work().join("there/notes.txt")).unwrap(), "read me");
    let fallback = subject.replace(':', "-");
    sandbox.corten(["manifest", "inspect", &registry.name(&format!("app:{fallback}"))]).ok().shows(&first);
    sandbox.corten(["artifact", "rm", &by_digest]).ok().prints(&format!("Removed {by_digest}"));
    let left = listed();
    left.ok().shows(&second);
    assert!(!left.stdout.contains(&first), "{}", left.transcript());
    sandbox.corten(["artifact", "pull", "-o", "there", &by_digest]).code(1).complains("manifest unknown");
    sandbox.corten(["artifact", "rm", &by_digest]).code(1).complains("there is no");
}

/// corten where `registry.test` is this machine.
fn with_hosts(sandbox: &Sandbox, args: &[&str]) -> Finished {
    let hosts = sandbox.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost registry.test\n").unwrap();
    let corten = sandbox.corten_command(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    command.arg(hosts).arg(corten.get_program()).args(corten.get_args());
    command.env_clear();
    for (name, value) in corten.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.current_dir(sandbox.work());
    finish(command, Some(b"secret\n"), Duration::from_secs(60))
}

#[test]
fn its_certificate_and_ours_are_checked_before_a_password_goes_there() {
    let as_user = std::env::var_os("CORTEN_TEST_AS_USER").is_some();
    require!(is_root() && !as_user, "a name of this machine's needs root");
    require!(missing().is_none(), "{}", missing().unwrap());
    let (authority, clients) = (Authority::new(), Authority::new());
    let further = "  tls: {certificate: {}/server.crt, key: {}/server.key, clientcas: [{}/clients.crt]}\n\
                   auth:\n  htpasswd: {realm: test, path: {}/users}\n";
    let registry = DockerRegistry::start(further, |directory| {
        authority.server(&["registry.test"]).write(directory, "server", "crt");
        std::fs::write(directory.join("clients.crt"), clients.pem()).unwrap();
        std::fs::write(directory.join("users"), USERS).unwrap();
    });
    let sandbox = sandbox();
    let host = format!("registry.test:{}", registry.port);
    let login = || with_hosts(&sandbox, &["login", "-u", "me", "--password-stdin", &host]);
    let refused = login();
    refused.code(1).complains("signed by an authority that is not known here");
    // The hint is something to type.
    let place = refused.stderr.split('`').find(|word| word.ends_with("/ca.crt")).unwrap();
    assert!(place.ends_with(&format!("certs.d/{host}/ca.crt")), "{place}");
    let folder = Path::new(place).parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(place, authority.pem()).unwrap();
    login().code(1).complains("client certificate");
    clients.client("me").write(folder, "client", "cert");
    login().ok().shows("Login Succeeded");
    let loaded = sandbox.load(&Image::tiny());
    let name = format!("{host}/app:1");
    sandbox.corten(["tag", &loaded, &name]).ok();
    let pushed = digest(&with_hosts(&sandbox, &["push", &name]));
    sandbox.corten(["rmi", "-f", &name]).ok();
    with_hosts(&sandbox, &["pull", &name]).ok().shows(&pushed);
    // Unverified works without the authority, where that is said.
    std::fs::remove_file(place).unwrap();
    with_hosts(&sandbox, &["pull", &name]).code(1).complains("not known here");
    with_hosts(&sandbox, &["pull", "--tls-verify=false", &name]).ok();
}
