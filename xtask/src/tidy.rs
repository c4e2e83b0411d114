//! `cargo xtask tidy`: what no compiler checks, each rule with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::check::{Source, licence_holds, sources};
use crate::{cargo, checkout};

/// Which crate may link which (ARCHITECTURE.md, "Crates"). A crate that is not named here may link none of them.
const ARROWS: &[(&str, &[&str])] = &[
    ("corten", &["corten-cli", "corten-engine", "corten-runtime", "corten-shim", "corten-sys", "corten-types"]),
    (
        "corten-cli",
        &["corten-docker", "corten-engine", "corten-registry", "corten-runtime", "corten-sys", "corten-types"],
    ),
    ("corten-docker", &["corten-engine", "corten-types"]),
    ("corten-engine", &["corten-log", "corten-registry", "corten-store", "corten-fs", "corten-sys", "corten-types"]),
    ("corten-shim", &["corten-log", "corten-runtime", "corten-fs", "corten-sys", "corten-types"]),
    ("corten-runtime", &["corten-fs", "corten-sys", "corten-types"]),
    ("corten-registry", &["corten-store", "corten-fs", "corten-sys", "corten-types"]),
    ("corten-store", &["corten-fs", "corten-sys", "corten-types"]),
    ("corten-fs", &["corten-sys", "corten-types"]),
    ("corten-log", &["corten-types"]),
    ("corten-sys", &["corten-types"]),
    ("corten-types", &[]),
    ("corten-testkit", &["corten-types"]),
    ("xtask", &["corten-testkit"]),
];

const LINES_MAX: usize = 900;

/// Checks every rule and prints what does not hold; whether all do.
pub(crate) fn report() -> bool {
    println!("\n==> tidy");
    let found = findings();
    found.iter().for_each(|finding| println!("{finding}"));
    println!("<== tidy: {}", if found.is_empty() { "passed".to_owned() } else { format!("{} findings", found.len()) });
    found.is_empty()
}

fn findings() -> Vec<String> {
    let sources = sources();
    let rust = || sources.iter().filter(|source| source.is_rust());
    let mut found = Vec::new();
    match metadata() {
        Some(metadata) => {
            found.extend(wrong_arrows(&metadata));
            found.extend(wrong_licences(&metadata, &sources));
            found.extend(forgotten_modules(&metadata, &rust().collect::<Vec<_>>()));
        }
        None => found.push("`cargo metadata` failed".to_owned()),
    }
    rust().for_each(|source| found.extend(wrong_source(source)));
    sources.iter().for_each(|source| found.extend(wrong_words(source)));
    found.extend(missing_documents(&sources));
    found
}

fn metadata() -> Option<Value> {
    let output = cargo().args(["metadata", "--format-version", "1", "--locked"]).output().ok()?;
    serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Arrows run downwards only, so that a lower crate can be read and tested without those above it.
fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let members: BTreeSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
    let ours: Vec<&Value> =
        list(metadata, "packages").filter(|package| members.contains(text(package, "id"))).collect();
    let names: BTreeSet<&str> = ours.iter().map(|package| text(package, "name")).collect();
    let mut found = Vec::new();
    for package in &ours {
        let name = text(package, "name");
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            found.push(format!("crate `{name}`: not in the table of arrows (xtask/src/tidy.rs, ARCHITECTURE.md)"));
            continue;
        };
        // Tests may use the kit and any crate; what ships may not.
        let linked = list(package, "dependencies").filter(|dependency| text(dependency, "kind") != "dev");
        let wrong =
            linked.map(|dependency| text(dependency, "name")).filter(|to| names.contains(to) && !allowed.contains(to));
        found.extend(wrong.map(|to| format!("crate `{name}` must not link `{to}`: no such arrow in ARCHITECTURE.md")));
    }
    found
}

/// Permissive licences alone: the list of deny.toml, which `cargo deny` reads too.
fn wrong_licences(metadata: &Value, sources: &[Source]) -> Vec<String> {
    let Some(policy) = sources.iter().find(|source| source.path == Path::new("deny.toml")) else {
        return vec!["deny.toml: missing".to_owned()];
    };
    let section = policy.text.split("\n[").find(|section| section.trim_start_matches('[').starts_with("licenses]"));
    let array = section.and_then(|section| section.split_once("allow = [")).and_then(|(_, rest)| rest.split_once(']'));
    let quoted = array.map(|(words, _)| words.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    let allowed = quoted.unwrap_or_default();
    let wrong = list(metadata, "packages").filter(|package| !licence_holds(text(package, "license"), &allowed));
    wrong.map(|p| format!("licence of `{}`: `{}` is not in deny.toml", text(p, "name"), text(p, "license"))).collect()
}

fn wrong_source(source: &Source) -> Vec<String> {
    let name = source.name();
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{name}: {lines} lines; a file that long holds two things (most: {LINES_MAX})"));
    }
    let first = source.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    let is_fuzz = name.starts_with("fuzz/");
    if !first.is_some_and(|line| line.starts_with("//!")) && !is_fuzz {
        found.push(format!("{name}: no `//!` that says what the module holds"));
    }
    if name.starts_with("xtask/") {
        return found;
    }
    for (number, line) in source.code() {
        let at = |what: &str| format!("{name}:{number}: {what}");
        let opens_unsafe =
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|form| line.contains(form));
        if opens_unsafe && !name.starts_with("crates/corten-sys/") {
            found.push(at("`unsafe` belongs into corten-sys, behind a safe function"));
        }
        if line.starts_with("#[ignore") {
            found.push(at("no `#[ignore]`: assert the known behaviour with a note, or skip with a reason"));
        }
        if ["todo!(", "unimplemented!(", "dbg!("].iter().any(|form| line.contains(form)) {
            found.push(at("unfinished"));
        }
    }
    found
}

/// A file that no `mod` names is compiled by nobody, and its tests never run.
fn forgotten_modules(metadata: &Value, rust: &[&Source]) -> Vec<String> {
    let targets = list(metadata, "packages").flat_map(|package| list(package, "targets"));
    let roots: BTreeSet<&str> = targets.map(|target| text(target, "src_path")).collect();
    let texts: BTreeMap<&Path, &str> =
        rust.iter().map(|source| (source.path.as_path(), source.text.as_str())).collect();
    let mut found = Vec::new();
    for path in texts.keys() {
        let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
            continue;
        };
        // Fuzz targets are a workspace of their own.
        let is_root = roots.contains(&*checkout().join(path).to_string_lossy()) || path.starts_with("fuzz");
        if is_root {
            continue;
        }
        let (module, home) = if stem == "mod" {
            (folder.file_name().and_then(|last| last.to_str()).unwrap_or_default(), folder.parent().unwrap_or(folder))
        } else {
            (stem, folder)
        };
        let parents = [home.join("main.rs"), home.join("lib.rs"), home.join("mod.rs"), home.with_extension("rs")];
        let named =
            parents.iter().filter_map(|parent| texts.get(parent.as_path())).any(|parent| declares(parent, module));
        if !named {
            found.push(format!("{}: no `mod {module};` names it, so it is not compiled", path.display()));
        }
    }
    found
}

fn declares(parent: &str, module: &str) -> bool {
    let wanted = format!("mod {module}");
    let declarations = parent.lines().map(str::trim).filter(|line| line.ends_with(';') || line.ends_with('{'));
    declarations
        .map(|line| line.trim_end_matches([';', '{', ' ']))
        .any(|line| line == wanted || line.ends_with(&format!(" {wanted}")))
}

/// The sources name no place that exists on one machine alone.
fn wrong_words(source: &Source) -> Vec<String> {
    let forbidden = [concat!("/wo", "rk/"), concat!("/opt/", "peers")];
    let hit = |line: &str| forbidden.iter().find(|word| line.contains(*word)).copied();
    let lines = source.text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, hit(line)?)));
    lines.map(|(number, word)| format!("{}:{number}: names `{word}`, a place on one machine", source.name())).collect()
}

/// Documents that a reader is promised.
fn missing_documents(sources: &[Source]) -> Vec<String> {
    let promised = [
        "README.md",
        "ARCHITECTURE.md",
        "SPECIFICATION.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs/conformance.md",
        "docs/kernel-features.md",
        "docs/threat-model.md",
    ];
    let has = |name: &str| sources.iter().any(|source| source.path == Path::new(name));
    promised.into_iter().filter(|name| !has(name)).map(|name| format!("{name}: missing")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_found_whatever_its_visibility() {
        assert!(declares("pub(crate) mod run;\nmod net;", "run") && declares("mod net;", "net"));
        assert!(declares("#[cfg(test)]\nmod tests {", "tests"));
        assert!(!declares("mod network;", "net") && !declares("// mod net", "net"));
    }
}
