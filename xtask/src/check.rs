//! Facts about the sources that tidy's rules are made of.

use std::path::{Path, PathBuf};

use crate::checkout;

/// A file of the checkout: path relative to it, and its text.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn name(&self) -> std::borrow::Cow<'_, str> {
        self.path.to_string_lossy()
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    /// Lines that are not comments, with their numbers.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        lines.filter(|(_, line)| !line.starts_with("//"))
    }
}

/// Every text file that git knows or would know: tracked ones and new ones that are not ignored.
pub(crate) fn sources() -> Vec<Source> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(checkout());
    let listed = git.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let names = listed.ok().filter(|names| !names.is_empty()).unwrap_or_else(|| {
        // An archive of the sources has no git directory.
        let mut names = Vec::new();
        walk(&checkout(), &mut names);
        names.join("\n")
    });
    let files = names.lines().map(PathBuf::from);
    files
        .filter_map(|path| Some(Source { text: std::fs::read_to_string(checkout().join(&path)).ok()?, path }))
        .collect()
}

fn walk(folder: &Path, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path != checkout().join("target") {
            walk(&path, names);
        } else if let Ok(inside) = path.strip_prefix(checkout()) {
            names.push(inside.to_string_lossy().into_owned());
        }
    }
}

/// Whether an SPDX expression can be met with `allowed` licences alone.
pub(crate) fn licence_holds(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let held = any_of(&mut rest, allowed);
    held && rest.is_empty()
}

fn any_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut held = all_of(words, allowed);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        held |= all_of(words, allowed);
    }
    held
}

fn all_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut held = one(words, allowed);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        held &= one(words, allowed);
    }
    held
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let held = any_of(words, allowed);
        let closed = words.first() == Some(&")");
        *words = words.get(1..).unwrap_or_default();
        return held && closed;
    }
    let mut name = (*first).to_owned();
    if words.first() == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(1).unwrap_or(&""));
        *words = words.get(2..).unwrap_or_default();
    }
    allowed.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        let holds = |text: &str| licence_holds(text, &allowed);
        assert!(holds("MIT OR GPL-3.0") && holds("MIT/Apache-2.0") && holds("Apache-2.0 WITH LLVM-exception"));
        assert!(holds("(GPL-2.0 OR MIT) AND Apache-2.0"));
        assert!(!holds("MIT AND GPL-2.0") && !holds("GPL-2.0") && !holds(""));
    }
}
