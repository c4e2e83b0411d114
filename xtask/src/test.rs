//! `cargo xtask test`: every test, in one command that does its own set-up, ending in one line of numbers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_testkit::leak::{Scope, Snapshot};
use corten_testkit::skip::{is_root, program};

use crate::step::{Count, check, tests};
use crate::{cargo, checkout, peers, tidy};

/// Runs everything; whether nothing failed. `quick` leaves out the peers and the run under cgroup v2.
pub(crate) fn run(quick: bool) -> bool {
    let mut total = Count::default();
    let mut left_out = Vec::new();
    if quick {
        left_out.push("real peers and cgroup v2: `--quick`".to_owned());
    } else {
        left_out.extend(peers::install().into_iter().map(|peer| format!("peer {peer}")));
    }
    total += check("format", with(cargo(), &["fmt", "--all", "--check"]));
    total += check("lints", with(cargo(), &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    total += Count::one(tidy::report());

    let Some(binaries) = build() else {
        total.failed += 1;
        return conclude(total, &left_out);
    };
    // Not in /tmp, which the kernel for cgroup v2 has afresh.
    let skips = PathBuf::from(format!("/var/tmp/corten-test-skips-{}", std::process::id()));
    let before = Snapshot::take(&Scope::Machine);
    let who = if is_root() { "as root" } else { "as this user" };
    total += tests(&format!("all tests, {who}"), harness(&["--workspace"]), &skips);
    if is_root() {
        let mut command = harness(&["--package", "corten", "--test", "e2e", "--test", "oci"]);
        command.env("CORTEN_TEST_AS_USER", "1");
        total += tests("runtime and end to end, as an ordinary user", command, &skips);
    } else {
        left_out.push("runtime and end to end as root: the tests run as an ordinary user".to_owned());
    }
    total += leaks(&before);
    if !quick {
        match cgroup_v2(&binaries) {
            Ok(command) => total += tests("runtime and end to end, under cgroup v2", command, &skips),
            Err(reason) => left_out.push(format!("cgroup v2: {reason}")),
        }
    }
    std::fs::remove_file(&skips).ok();
    conclude(total, &left_out)
}

fn conclude(mut total: Count, left_out: &[String]) -> bool {
    println!();
    for part in left_out {
        println!("left out: {part}");
        total += Count::left_out();
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    total.failed == 0
}

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

/// nextest where it is installed, else cargo's own harness.
fn harness(args: &[&str]) -> Command {
    if program("cargo-nextest").is_some() {
        with(with(cargo(), &["nextest", "run", "--no-fail-fast", "--status-level", "slow"]), args)
    } else {
        with(with(cargo(), &["test", "--no-fail-fast"]), args)
    }
}

/// Builds every test once; the test programs by package.
fn build() -> Option<Vec<(String, PathBuf)>> {
    println!("\n==> build");
    let mut command = with(cargo(), &["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().ok()?.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let programs = messages.filter(|message| message["profile"]["test"] == true).filter_map(|message| {
        let package = Path::new(message["manifest_path"].as_str()?).parent()?.file_name()?.to_str()?.to_owned();
        let target = message["target"]["name"].as_str()?;
        Some((format!("{package}/{target}"), PathBuf::from(message["executable"].as_str()?)))
    });
    Some(programs.collect())
}

/// The test programs whose behaviour depends on the version of cgroups, one after the other under a kernel with v2 alone.
fn cgroup_v2(binaries: &[(String, PathBuf)]) -> Result<Command, String> {
    let depends = |name: &str| name.starts_with("corten-runtime/") || ["corten/e2e", "corten/oci"].contains(&name);
    let chosen: Vec<&PathBuf> = binaries.iter().filter(|(name, _)| depends(name)).map(|(_, path)| path).collect();
    let runner = checkout().join("xtask/uml-run");
    println!("\n==> kernel with cgroup v2");
    let booted = Command::new(&runner).args(["-t", "240", "--", "true"]).status();
    if !booted.is_ok_and(|status| status.success()) {
        return Err("xtask/uml-run could not boot its kernel here (its reason stands above)".to_owned());
    }
    let mut command = Command::new(runner);
    command.current_dir(checkout()).args(["-t", "900", "--", "sh", "-c"]);
    command
        .arg("code=0; for program; do (cd /tmp && \"$program\" --test-threads=2) || code=1; done; exit $code")
        .arg("sh");
    command.args(chosen);
    // One processor that emulates another: what takes a second outside takes several here.
    command.env("CORTEN_TEST_SLOW", "8");
    Ok(command)
}

/// Whatever of Corten's is on the machine now and was not before: one check.
fn leaks(before: &Snapshot) -> Count {
    println!("\n==> left behind by the tests");
    let ours = |leak: &str| leak.starts_with("interface") || leak.starts_with("nft rule") || leak.contains("corten");
    let clean = before.settle(&Scope::Machine, |leak| !ours(leak));
    if let Err(leaks) = &clean {
        println!("{leaks}");
    }
    before.left_out.iter().for_each(|part| println!("    not counted: {part}"));
    Count::one(clean.is_ok())
}
