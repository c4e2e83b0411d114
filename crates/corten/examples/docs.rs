//! Writes docs/reference from the table of flags: `docs`; man pages and completions: `docs --install DIRECTORY`.
#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a developer's tool that writes where it is told")]

use std::io::{Error, Result};
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => write_reference(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference"))?,
        ["--install", directory] => install(Path::new(directory))?,
        _ => {
            eprintln!("usage: cargo xtask docs [--install DIRECTORY]");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_reference(directory: &Path) -> Result<()> {
    let pages = corten_cli::reference_pages();
    write_all(directory, &pages)?;
    for entry in std::fs::read_dir(directory)?.flatten() {
        // The page of a command that is no more.
        if !pages.iter().any(|(name, _)| entry.file_name() == name.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn install(directory: &Path) -> Result<()> {
    let other = |error: corten_types::Error| Error::other(error.report());
    write_all(&directory.join("man1"), &corten_cli::man_pages().map_err(other)?)?;
    write_all(&directory.join("completions"), &corten_cli::completions().map_err(other)?)
}

fn write_all(directory: &Path, files: &[(String, String)]) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    files.iter().try_for_each(|(name, text)| std::fs::write(directory.join(name), text))
}
