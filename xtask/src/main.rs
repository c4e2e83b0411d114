//! Development tasks: `cargo xtask COMMAND`.
//!
//! ```text
//! test    every test: format, lints, tidy, units, end to end as root and as an ordinary user, cgroup v2, real peers
//! tidy    what no compiler checks: arrows between crates, licences, forgotten modules, forbidden words
//! peers   engines and runtimes from Debian's packages
//! uml     a command under a kernel with cgroup v2
//! bench   the figures of SPECIFICATION.md, beside the peers
//! bundles the OCI bundles that bench runs
//! docs    docs/reference, man pages and completions, from the table of flags
//! ```
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool that works on the checkout and reads its environment"
)]

mod check;
mod peers;
mod step;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask COMMAND

  test [--quick]          every test; --quick leaves out peers and the cgroup v2 run
  tidy                    arrows between crates, licences, forgotten modules, forbidden words
  peers                   install the engines that the tests are held against (Debian, root)
  uml [-m MEM] -- CMD     CMD as root under a kernel with cgroup v2 (xtask/uml-run)
  bench [ARGUMENTS]       bench/oci-run.sh: the release binary beside the runtimes on PATH
  bundles DIR             the OCI bundles that bench runs
  docs [--install DIR]    write docs/reference; or man pages and completions below DIR";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let done = match args.first().map(String::as_str) {
        Some("test") => test::run(rest.iter().any(|flag| flag == "--quick")),
        Some("tidy") => tidy::report(),
        Some("peers") => {
            let left_out = peers::install();
            left_out.iter().for_each(|peer| println!("left out: {peer}"));
            left_out.is_empty()
        }
        Some("bundles") => run_example("bundles", rest),
        Some("docs") => run_example("docs", rest),
        Some("uml") => run_script("xtask/uml-run", rest),
        Some("bench") => run_script("bench/oci-run.sh", rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The checkout's directory.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The cargo that started this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout());
    command
}

/// What needs the product's own code is an example of it, so that this program builds while the product does not.
fn run_example(name: &str, args: &[String]) -> bool {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "corten", "--example", name, "--"]).args(args);
    command.status().is_ok_and(|status| status.success())
}

fn run_script(script: &str, args: &[String]) -> bool {
    let status = Command::new(checkout().join(script)).args(args).status();
    status.is_ok_and(|status| status.success())
}
