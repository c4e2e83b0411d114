//! Saving a container's processes as files and bringing them back, by criu.

use std::path::PathBuf;
use std::process::Command;

use super::*;

/// criu, where it is installed and works on this kernel, else why not. `CORTEN_TEST_CRIU` names another one than PATH's.
fn criu() -> Result<PathBuf, String> {
    let chosen = std::env::var_os("CORTEN_TEST_CRIU").map(PathBuf::from);
    let program = chosen.or_else(|| corten_testkit::skip::program("criu")).ok_or("needs criu")?;
    let checked = Command::new(&program).arg("check").output().map_err(|error| error.to_string())?;
    if checked.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    let error = said.lines().find(|line| line.contains("Error")).unwrap_or("no reason given");
    Err(format!("this kernel is not one for the installed criu: {error}"))
}

/// A container that counts into a file, its place, and the runtime's words to reach it.
struct Counting {
    bundle: Bundle,
    images: PathBuf,
    count: PathBuf,
    criu: String,
}

impl Counting {
    fn start(sandbox: &Sandbox, criu: PathBuf) -> Self {
        let out = sandbox.directory("out");
        let mut bundle = script(
            sandbox,
            "n=0; while :; do n=$((n + 1)); echo $n >/out/next; mv /out/next /out/count; sleep 0.05; done",
        );
        bundle.mount("/out", "bind", out.to_str().unwrap(), &["bind", "rw"]);
        bundle.write();
        // Standard descriptors that criu knows: no file of the host's.
        let words = ["run", "--detach", "-b", bundle.directory.to_str().unwrap(), "c"];
        let mut command = sandbox.runtime_command(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        let images = sandbox.work().join("images");
        let one = Self { bundle, images, count: out.join("count"), criu: criu.to_str().unwrap().to_owned() };
        assert!(corten_testkit::run::eventually(LIMIT, || one.count() > 2));
        one
    }

    fn count(&self) -> u64 {
        std::fs::read_to_string(&self.count).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn runtime(&self, sandbox: &Sandbox, words: &[&str]) -> Detached {
        let command = [&["--criu", &self.criu], words, &["--image-path", self.images.to_str().unwrap(), "c"]].concat();
        detached(sandbox, &command)
    }

    /// Demands that it still counts, on from where it was.
    fn goes_on(&self, from: u64) {
        assert!(corten_testkit::run::eventually(LIMIT, || self.count() > from), "stopped at {}", self.count());
        assert!(self.count() < from + 100_000, "started again?");
    }
}

#[test]
fn a_saved_container_goes_on_where_it_was() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "criu needs root");
    let criu = match criu() {
        Ok(criu) => criu,
        Err(reason) => return corten_testkit::skip::skip(&reason),
    };
    let counting = Counting::start(&sandbox, criu);
    let saved = counting.runtime(&sandbox, &["checkpoint"]);
    // Some rights that criu wants, root may not have here: to raise limits, above all.
    corten_testkit::require!(!saved.text.contains("rlimit"), "criu may not raise its limits here: {}", saved.text);
    saved.ok();
    sandbox.runtime(["state", "c"]).code(1).complains("does not exist");
    let before = counting.count();
    let directory = counting.bundle.directory.to_str().unwrap();
    counting.runtime(&sandbox, &["restore", "--detach", "-b", directory]).ok();
    assert_eq!(state(&sandbox)["status"], "running");
    counting.goes_on(before);
    sandbox.runtime(["exec", "c", "true"]).ok();
    delete(&sandbox);
}

#[test]
fn a_container_can_be_saved_and_left_running() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "criu needs root");
    let criu = match criu() {
        Ok(criu) => criu,
        Err(reason) => return corten_testkit::skip::skip(&reason),
    };
    let counting = Counting::start(&sandbox, criu);
    let saved = counting.runtime(&sandbox, &["checkpoint", "--leave-running"]);
    corten_testkit::require!(!saved.text.contains("rlimit"), "criu may not raise its limits here: {}", saved.text);
    saved.ok();
    assert_eq!(state(&sandbox)["status"], "running");
    counting.goes_on(counting.count());
    delete(&sandbox);
}

#[test]
fn what_cannot_be_saved_or_restored_is_named_and_untouched() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    let missing = detached(&sandbox, &["--criu", "/no/such/criu", "checkpoint", "c"]);
    assert!(missing.code == 1 && missing.text.contains("/no/such/criu"), "{}", missing.text);
    // A program that ends at once, in criu's place.
    let broken = detached(&sandbox, &["--criu", "/bin/false", "checkpoint", "c"]);
    assert!(broken.code == 1 && broken.text.contains("criu ended without an answer"), "{}", broken.text);
    assert_eq!(state(&sandbox)["status"], "running");
    delete(&sandbox);
    let bundle = sleeper(&sandbox);
    let images = sandbox.directory("images");
    let (directory, images) = (bundle.directory.to_str().unwrap(), images.to_str().unwrap());
    let words = ["--criu", "/bin/false", "restore", "--detach", "-b", directory, "--image-path", images, "c"];
    let broken = detached(&sandbox, &words);
    assert!(broken.code == 1 && broken.text.contains("cannot restore container `c`"), "{}", broken.text);
    sandbox.runtime(["state", "c"]).code(1);
}
