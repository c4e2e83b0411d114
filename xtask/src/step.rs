//! One part of the test run: a command whose output is passed on, and whose tests are counted from it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Count {
    /// One check that held or did not.
    pub(crate) fn one(held: bool) -> Self {
        Self { passed: held.into(), failed: (!held).into(), skipped: 0 }
    }

    /// One part left out.
    pub(crate) fn left_out() -> Self {
        Self { skipped: 1, ..Self::default() }
    }
}

/// Runs a command that is one check.
pub(crate) fn check(title: &str, mut command: Command) -> Count {
    announce(title);
    let start = Instant::now();
    let held = command.status().is_ok_and(|status| status.success());
    conclude(title, start, held);
    Count::one(held)
}

/// Runs a command that runs tests (nextest or the standard harness) and counts them; `skips` is the file that tests which
/// left themselves out wrote to. A command that fails without a failed test counts as one failure.
pub(crate) fn tests(title: &str, mut command: Command, skips: &Path) -> Count {
    announce(title);
    let start = Instant::now();
    std::fs::write(skips, "").ok();
    command.env("CORTEN_TEST_SKIPS", skips);
    let (mut count, succeeded) = stream(command);
    let reasons = std::fs::read_to_string(skips).unwrap_or_default();
    let names: std::collections::BTreeSet<&str> = reasons.lines().filter_map(|line| line.split(": ").next()).collect();
    let left_out = u64::try_from(names.len()).unwrap_or(u64::MAX).min(count.passed);
    count.passed -= left_out;
    count.skipped += left_out;
    if !succeeded && count.failed == 0 {
        count.failed = 1;
    }
    for reason in reasons.lines() {
        println!("    left out: {reason}");
    }
    conclude(title, start, succeeded);
    count
}

fn stream(command: Command) -> (Count, bool) {
    let mut both = Command::new("sh");
    both.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        both.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        value.map(|value| both.env(name, value));
    }
    let Ok(mut child) = both.stdout(Stdio::piped()).spawn() else { return (Count::default(), false) };
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            print!("{text}");
            count += counted(&text).unwrap_or_default();
            line.clear();
        }
    }
    (count, child.wait().is_ok_and(|status| status.success()))
}

/// The numbers in a summary line of either harness.
fn counted(line: &str) -> Option<Count> {
    let summary = line.trim_start();
    let after = match summary.strip_prefix("test result: ") {
        Some(after) => after,
        None if summary.starts_with("Summary [") => summary,
        None => return None,
    };
    let words: Vec<&str> = after.split_whitespace().collect();
    let number = |names: &[&str]| -> u64 {
        let pairs = words.windows(2).filter(|pair| names.contains(&pair[1].trim_end_matches([';', ',', ':'])));
        pairs.filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
    };
    Some(Count {
        passed: number(&["passed"]),
        failed: number(&["failed", "timed out", "exec failed"]),
        skipped: number(&["ignored"]),
    })
}

fn announce(title: &str) {
    println!("\n==> {title}");
}

fn conclude(title: &str, start: Instant, held: bool) {
    println!("<== {title}: {} in {} s", if held { "passed" } else { "FAILED" }, start.elapsed().as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_harnesses_are_counted() {
        let cargo = counted(
            "test result: FAILED. 41 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.2s",
        );
        assert_eq!(cargo, Some(Count { passed: 41, failed: 2, skipped: 0 }));
        let nextest = counted("     Summary [   0.030s] 12 tests run: 11 passed (1 slow), 1 failed, 4 skipped\n");
        assert_eq!(nextest, Some(Count { passed: 11, failed: 1, skipped: 0 }));
        assert_eq!(counted("test a ... ok"), None);
    }
}
