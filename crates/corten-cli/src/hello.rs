//! The program of the built-in image `hello`: a page that says what isolates the process that prints it.
//!
//! It reads /proc and /sys as any program in the container would, and leaves out what it cannot see.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use corten_types::capability;

/// Longest line of the page.
const WIDTH: usize = 80;
/// Column where values begin.
const INDENT: usize = 16;
/// Files are read up to this size.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Prints the page; the exit code is 0 where it could be written.
pub fn main() -> u8 {
    use std::io::Write;
    let page = page(Path::new("/"));
    u8::from(std::io::stdout().write_all(page.as_bytes()).is_err())
}

/// The page as seen under `root` (`/`, or a copy of its files in tests).
fn page(root: &Path) -> String {
    let host = Host { root };
    let status = host.status();
    let mut page = Page::default();
    page.text("Hello from inside a container that Corten made.\n\n");
    page.row("process", &process(&status));
    page.row("host name", &host.line("proc/sys/kernel/hostname"));
    page.row("kernel", &host.line("proc/sys/kernel/osrelease"));
    page.row("user", &identity(&status));
    page.rows("user map", &host.id_map("proc/self/uid_map"));
    page.rows("group map", &host.id_map("proc/self/gid_map"));
    page.text("\n");
    page.words("namespaces", &host.namespaces());
    page.words("capabilities", &capabilities(&status, "CapEff"));
    page.words("may regain", &regainable(&status));
    page.row("seccomp", &seccomp(&status));
    page.row("privileges", &new_privileges(&status));
    page.text("\n");
    page.rows("cgroup limits", &host.limits());
    page.rows("root", &host.root_mount());
    page.words("read-only", &host.read_only_mounts());
    page.row("mounts", &host.mount_count());
    page.row("network", &host.interfaces());
    page.text("\nTry next:  corten run --rm -it host sh    a throw-away copy of this machine\n");
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn row(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.rows(name, &[value.to_owned()]);
        }
    }

    fn rows(&mut self, name: &str, values: &[String]) {
        for (index, value) in values.iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            let value: String = value.chars().filter(|c| !c.is_control()).take(WIDTH - INDENT).collect();
            let written = writeln!(self.0, "  {name:<width$}{value}", width = INDENT - 2);
            debug_assert!(written.is_ok(), "a String takes every write");
        }
    }

    /// Words over as many lines as they need.
    fn words(&mut self, name: &str, words: &[String]) {
        let mut lines: Vec<String> = Vec::new();
        for word in words {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 2 + word.chars().count() <= WIDTH - INDENT => {
                    line.push_str("  ");
                    line.push_str(word);
                }
                _ => lines.push(word.clone()),
            }
        }
        self.rows(name, &lines);
    }
}

/// `/proc/self/status`, name to value.
type Status = BTreeMap<String, String>;

fn value<'a>(status: &'a Status, name: &str) -> &'a str {
    status.get(name).map_or("", String::as_str)
}

fn process(status: &Status) -> String {
    match value(status, "Pid") {
        "" => String::new(),
        "1" => "pid 1: the first process of its own pid namespace".to_owned(),
        pid => format!("pid {pid}"),
    }
}

fn identity(status: &Status) -> String {
    let effective = |name: &str| value(status, name).split_whitespace().nth(1).map(str::to_owned);
    let (Some(uid), Some(gid)) = (effective("Uid"), effective("Gid")) else { return String::new() };
    let groups = value(status, "Groups").split_whitespace().collect::<Vec<_>>().join(" ");
    let groups = if groups.is_empty() { String::new() } else { format!(", groups {groups}") };
    format!("uid {uid}, gid {gid}{groups}")
}

fn mask(status: &Status, name: &str) -> Option<u64> {
    u64::from_str_radix(value(status, name), 16).ok()
}

fn names(mask: u64) -> Vec<String> {
    let name = |number: u32| {
        let name = capability::name(number).unwrap_or_else(|| format!("CAP_{number}"));
        name.trim_start_matches("CAP_").to_lowercase()
    };
    (0..64).filter(|number| mask & (1 << number) != 0).map(name).collect()
}

fn capabilities(status: &Status, set: &str) -> Vec<String> {
    match mask(status, set) {
        None => Vec::new(),
        Some(0) => vec!["none".to_owned()],
        Some(mask) if mask == every_capability(status) && mask.count_ones() > 30 => {
            vec![format!("all {}", mask.count_ones())]
        }
        Some(mask) => names(mask),
    }
}

fn every_capability(status: &Status) -> u64 {
    // The bounding set of a privileged container holds all that the kernel knows.
    mask(status, "CapBnd").unwrap_or(0)
}

/// Capabilities that are not in force but that a set-uid program could still bring back.
fn regainable(status: &Status) -> Vec<String> {
    match (mask(status, "CapBnd"), mask(status, "CapEff")) {
        (Some(bounding), Some(effective)) => names(bounding & !effective),
        _ => Vec::new(),
    }
}

fn seccomp(status: &Status) -> String {
    let filters = match value(status, "Seccomp_filters") {
        "" | "0" => String::new(),
        "1" => ", 1 filter".to_owned(),
        count => format!(", {count} filters"),
    };
    match value(status, "Seccomp") {
        "0" => "off: every system call is allowed".to_owned(),
        "1" => "strict: read, write and exit alone".to_owned(),
        "2" => format!("on: system calls are filtered{filters}"),
        _ => String::new(),
    }
}

fn new_privileges(status: &Status) -> String {
    match value(status, "NoNewPrivs") {
        "1" => "can never be gained (no_new_privs)".to_owned(),
        "0" => "set-uid programs may raise them, no further than the list above".to_owned(),
        _ => String::new(),
    }
}

struct Host<'a> {
    root: &'a Path,
}

impl Host<'_> {
    fn read(&self, path: &str) -> Option<String> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(self.root.join(path)).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn line(&self, path: &str) -> String {
        self.read(path).unwrap_or_default().trim().to_owned()
    }

    fn status(&self) -> Status {
        let text = self.read("proc/self/status").unwrap_or_default();
        let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        text.lines().filter_map(pair).collect()
    }

    fn id_map(&self, path: &str) -> Vec<String> {
        let text = self.read(path).unwrap_or_default();
        let line = |line: &str| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [inside, outside, count] = numbers.as_slice() else { return None };
            Some(match count {
                4_294_967_295 if inside == outside => "the machine's own ids".to_owned(),
                1 => format!("{inside} is {outside} outside"),
                count => format!("{inside} to {} are {outside} to {} outside", inside + count - 1, outside + count - 1),
            })
        };
        text.lines().filter_map(line).take(8).collect()
    }

    fn namespaces(&self) -> Vec<String> {
        const KINDS: [&str; 8] = ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user", "time"];
        let namespace = |kind: &&str| {
            let link = std::fs::read_link(self.root.join("proc/self/ns").join(kind)).ok()?;
            let id = link.to_string_lossy().split_once(":[")?.1.trim_end_matches(']').to_owned();
            // The kernel gives its first namespaces fixed numbers: these are the machine's own.
            let shared = id.parse::<u64>().is_ok_and(|id| (4_026_531_832..=4_026_531_841).contains(&id));
            Some(if shared { format!("{kind} {id} (the machine's)") } else { format!("{kind} {id}") })
        };
        KINDS.iter().filter_map(namespace).collect()
    }

    /// Limits as version 2 or version 1 of cgroups shows them.
    fn limits(&self) -> Vec<String> {
        let first = |paths: &[&str]| {
            paths.iter().map(|path| self.line(&format!("sys/fs/cgroup/{path}"))).find(|text| !text.is_empty())
        };
        let mut limits = Vec::new();
        if let Some(memory) = first(&["memory.max", "memory/memory.limit_in_bytes"]) {
            limits.push(match memory.parse::<u64>() {
                // Version 1 says "no limit" with the largest multiple of a page.
                Ok(bytes) if bytes < 1 << 62 => format!("memory  {}", corten_docker::units::human_size_binary(bytes)),
                _ => "memory  no limit".to_owned(),
            });
        }
        let version_1 = || {
            let quota = first(&["cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"])?;
            let period = first(&["cpu/cpu.cfs_period_us", "cpu,cpuacct/cpu.cfs_period_us"])?;
            Some(format!("{quota} {period}"))
        };
        if let Some(cpu) = first(&["cpu.max"]).or_else(version_1) {
            limits.push(format!("cpus    {}", cpus(&cpu)));
        }
        if let Some(pids) = first(&["pids.max", "pids/pids.max"]) {
            limits.push(format!("pids    {}", if pids == "max" { "no limit" } else { &pids }));
        }
        limits
    }

    /// Mount points with their options and types.
    fn mounts(&self) -> Vec<(String, bool, String, String)> {
        let text = self.read("proc/self/mountinfo").unwrap_or_default();
        let mount = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let fields: Vec<&str> = left.split(' ').collect();
            let kind = right.split(' ').next()?;
            let options = *fields.get(5)?;
            let super_options = right.split(' ').next_back()?;
            let read_only = options.split(',').any(|option| option == "ro");
            Some(((*fields.get(4)?).to_owned(), read_only, kind.to_owned(), super_options.to_owned()))
        };
        text.lines().filter_map(mount).collect()
    }

    fn root_mount(&self) -> Vec<String> {
        let mounts = self.mounts();
        let Some((_, read_only, kind, options)) = mounts.iter().find(|mount| mount.0 == "/") else { return Vec::new() };
        let access = if *read_only { "read-only" } else { "writable" };
        // One option a layer, or on older kernels all of them in one.
        let lower: Vec<_> = options.split(',').filter_map(|option| option.strip_prefix("lowerdir")).collect();
        let count = lower.iter().flat_map(|value| value.trim_start_matches(['+', '=']).split(':'));
        let layers = match count.filter(|layer| !layer.is_empty()).count() {
            0 => None,
            count => Some(count),
        };
        Vec::from([match layers {
            Some(1) => format!("{kind}, {access}, above 1 layer of the image"),
            Some(count) => format!("{kind}, {access}, above {count} layers of the image"),
            None => format!("{kind}, {access}"),
        }])
    }

    fn read_only_mounts(&self) -> Vec<String> {
        let mut shown: Vec<String> = Vec::new();
        for (place, read_only, ..) in self.mounts() {
            // What lies below a place that is shown says nothing more.
            let below = |parent: &String| place.strip_prefix(parent.as_str()).is_some_and(|rest| rest.starts_with('/'));
            if read_only && place != "/" && !shown.iter().any(below) {
                shown.push(place);
            }
        }
        shown
    }

    fn mount_count(&self) -> String {
        match self.mounts().len() {
            0 => String::new(),
            count => format!("{count} in all"),
        }
    }

    fn interfaces(&self) -> String {
        let text = self.read("proc/self/net/dev").unwrap_or_default();
        let names: Vec<_> = text.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
        match names.as_slice() {
            [] => String::new(),
            ["lo"] => "loopback alone".to_owned(),
            names => names.join(" "),
        }
    }
}

/// `150000 100000` is 1.5.
fn cpus(text: &str) -> String {
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [quota, period] if *quota > 0.0 && *period > 0.0 => format!("{}", (quota / period * 100.0).round() / 100.0),
        _ => "no limit".to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files of their own")]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_page_stands_without_any_file() {
        let page = page(root(&[]).path());
        assert!(page.starts_with("Hello from inside"));
        assert!(page.contains("Try next"));
    }

    #[test]
    fn the_page_fits_eighty_columns() {
        let files = [
            ("proc/sys/kernel/hostname", "3f2a9c\n"),
            (
                "proc/self/status",
                "Name:\tcorten\nPid:\t1\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0 10\nNoNewPrivs:\t0\nSeccomp:\t2\n\
                 Seccomp_filters:\t1\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n",
            ),
            ("proc/self/uid_map", "0 1000 1\n1 100000 65536\n"),
            ("proc/self/gid_map", "0 0 4294967295\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
            ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pids.max", "max\n"),
            (
                "proc/self/mountinfo",
                "1 0 0:1 / / rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/u\n2 1 0:2 / /proc/sys ro - proc proc rw\n",
            ),
            ("proc/self/net/dev", "a\nb\n    lo: 0 0\n"),
        ];
        let page = page(root(&files).path());
        for expected in [
            "pid 1",
            "3f2a9c",
            "uid 0, gid 0, groups 0 10",
            "0 is 1000 outside",
            "1 to 65536 are 100000 to 165535 outside",
            "the machine's own ids",
            "chown",
            "on: system calls are filtered, 1 filter",
            "memory  512MiB",
            "cpus    1.5",
            "pids    no limit",
            "overlay, writable, above 2 layers of the image",
            "/proc/sys",
            "loopback alone",
        ] {
            assert!(page.contains(expected), "{expected} in\n{page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
    }

    #[test]
    fn a_hostile_file_cannot_break_the_page() {
        let long = "x".repeat(5000);
        let page = page(root(&[("proc/sys/kernel/hostname", &format!("\x1b[31m{long}\n"))]).path());
        assert!(!page.contains('\x1b'));
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH));
    }
}
