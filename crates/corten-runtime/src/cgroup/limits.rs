//! `linux.resources` as a list of files to write: checked as a whole before anything is changed.

mod v1;
mod v2;

pub(super) use v2::weight_of_shares;

use std::collections::BTreeMap;

use corten_types::runtime_spec::{HugepageLimit, Rdma, Resources};
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::directory::{Directory, write_value};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller that the file belongs to; `cgroup` is cgroup2 itself.
    pub(super) controller: String,
    /// What the document calls it.
    pub(super) field: String,
    /// File and value; the first file that exists is taken.
    pub(super) choices: Vec<(String, String)>,
    /// Whether nothing is lost where controller or file are missing.
    pub(super) optional: bool,
}

/// What a limit may depend on: the content of a file of the living cgroup, nothing while it is made.
pub(super) type Current<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// The settings that `resources` asks for; devices are apart.
pub(super) fn settings(resources: &Resources, unified: bool, current: Current<'_>) -> Result<Vec<Setting>> {
    let mut list = List::default();
    check_cpu_lists(resources)?;
    if unified {
        v2::add(&mut list, resources, current)?
    } else {
        v1::add(&mut list, resources)?
    }
    Ok(list.settings)
}

/// Refuses limits below what is used already, where the document asks for that check.
pub(super) fn check_usage(resources: &Resources, current: Current<'_>) -> Result<()> {
    let Some(memory) = resources.memory.as_ref().filter(|memory| memory.check_before_update == Some(true)) else {
        return Ok(());
    };
    let read = |file| current("memory", file).and_then(|text| text.trim().parse::<i64>().ok());
    let Some(usage) = read("memory.current").or_else(|| read("memory.usage_in_bytes")) else { return Ok(()) };
    for (name, what, limit) in [("swap", "memory+swap", memory.swap), ("limit", "memory", memory.limit)] {
        if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit <= usage) {
            // runc's words: its users look for them.
            let message = format!("`linux.resources.memory.{name}`: rejecting {what} limit {limit} <= usage {usage}");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
    }
    Ok(())
}

/// Builds the settings.
#[derive(Debug, Default)]
struct List {
    settings: Vec<Setting>,
}

impl List {
    fn set(&mut self, field: &str, file: &str, value: impl ToString) -> &mut Setting {
        self.choose(field, vec![(file.to_owned(), value.to_string())])
    }

    fn choose(&mut self, field: &str, choices: Vec<(String, String)>) -> &mut Setting {
        let controller = choices[0].0.split('.').next().unwrap_or_default().to_owned();
        let field = format!("linux.resources.{field}");
        self.settings.push(Setting { controller, field, choices, optional: false });
        let last = self.settings.len() - 1;
        &mut self.settings[last]
    }
}

/// -1 (unlimited) or a positive number; 0 is the same as nothing.
fn limit(field: &str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        Some(value) if value < -1 => Err(out_of_range(field, value, "a positive number or -1 (unlimited) is expected")),
        value => Ok(value.filter(|value| *value != 0)),
    }
}

fn out_of_range(field: &str, value: impl std::fmt::Display, expected: &str) -> Error {
    Error::invalid(format!("`linux.resources.{field}` is {value}; {expected}"))
}

fn unsupported(field: &str, reason: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("`linux.resources.{field}` cannot be set: {reason}"))
}

fn weight(field: &str, value: Option<u16>) -> Result<Option<u16>> {
    match value {
        None | Some(0) => Ok(None),
        Some(weight @ 10..=1000) => Ok(Some(weight)),
        Some(other) => Err(out_of_range(field, other, "10 to 1000 is expected")),
    }
}

fn idle(value: Option<i64>) -> Result<Option<i64>> {
    match value {
        None | Some(0 | 1) => Ok(value),
        Some(other) => Err(out_of_range("cpu.idle", other, "0 or 1 is expected")),
    }
}

/// A block device's number as the kernel reads it.
fn device(field: &str, major: i64, minor: i64) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(out_of_range(field, format!("{major}:{minor}"), "a device number is expected")),
    }
}

fn pids(list: &mut List, resources: &Resources) {
    let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) else { return };
    // Not even the first process could be made under 0, which runc and systemd take for 1 as well.
    let value = if limit < 0 { "max".to_owned() } else { limit.max(1).to_string() };
    list.set("pids.limit", "pids.max", value).optional = limit < 0;
}

fn hugepages(list: &mut List, limits: &[HugepageLimit], suffixes: &[&str]) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    let sizes = page_sizes();
    for (index, one) in limits.iter().enumerate() {
        let field = format!("hugepageLimits[{index}]");
        if !sizes.contains(&one.page_size) {
            let known = if sizes.is_empty() { "none".to_owned() } else { sizes.join(", ") };
            return Err(out_of_range(
                &format!("{field}.pageSize"),
                format!("`{}`", one.page_size.escape_debug()),
                &format!("this kernel's huge pages: {known}"),
            ));
        }
        let choices = |kind: &str| {
            let file = |suffix: &&str| (format!("hugetlb.{}{kind}.{suffix}", one.page_size), one.limit.to_string());
            suffixes.iter().map(file).collect()
        };
        list.choose(&format!("{field}.limit"), choices(""));
        // Reservations are limited too, since Linux 5.7.
        list.choose(&format!("{field}.limit"), choices(".rsvd")).optional = true;
    }
    Ok(())
}

/// The sizes of huge pages as the controller's files write them: `2MB`, `1GB`.
pub(super) fn page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok())
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

fn page_size(kib: u64) -> String {
    match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    }
}

fn rdma(list: &mut List, limits: &BTreeMap<String, Rdma>) -> Result<()> {
    for (device, limit) in limits {
        let field = format!("rdma.{device}");
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(out_of_range("rdma", format!("for `{}`", device.escape_debug()), "a device name is expected"));
        }
        let mut value = device.clone();
        for (name, number) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            if let Some(number) = number {
                value.push_str(&format!(" {name}={number}"));
            }
        }
        if value.len() > device.len() {
            list.set(&field, "rdma.max", value);
        }
    }
    Ok(())
}

/// `0-3,7`, checked before it reaches the kernel: an empty or odd list there is no clear error.
fn check_cpu_lists(resources: &Resources) -> Result<()> {
    let Some(cpu) = &resources.cpu else { return Ok(()) };
    for (field, list) in [("cpu.cpus", &cpu.cpus), ("cpu.mems", &cpu.mems)] {
        if !list.is_empty() && parse_list(list).is_none() {
            return Err(out_of_range(field, format!("`{}`", list.escape_debug()), "a list like `0-3,7` is expected"));
        }
    }
    Ok(())
}

/// The numbers of a list like `0-3,7`; `None` where it is none.
pub(super) fn parse_list(list: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        // The kernel also takes a stride, `0-31:2/4`.
        let last = last.split(':').next()?;
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 65_535 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// What a file held before it was changed.
#[derive(Debug)]
pub(super) struct Undo<'a> {
    directory: &'a Directory,
    file: String,
    value: String,
}

/// Writes the settings of one controller. One that the kernel finds invalid is tried again after the others: a limit may
/// have to wait for the one that bounds it (memory and swap, quota and period).
pub(super) fn apply<'a>(
    directory: &'a Directory,
    settings: &[&Setting],
    mut undo: Option<&mut Vec<Undo<'a>>>,
) -> Result<()> {
    let mut waiting: Vec<&Setting> = settings.to_vec();
    loop {
        let (mut invalid, mut first) = (Vec::new(), None);
        for setting in &waiting {
            if let Err((errno, error)) = write(directory, setting, undo.as_deref_mut()) {
                if errno != Errno::INVAL {
                    return Err(error);
                }
                invalid.push(*setting);
                first.get_or_insert(error);
            }
        }
        match first {
            None => return Ok(()),
            Some(error) if invalid.len() == waiting.len() => return Err(error),
            Some(_) => waiting = invalid,
        }
    }
}

fn write<'a>(
    directory: &'a Directory,
    setting: &Setting,
    undo: Option<&mut Vec<Undo<'a>>>,
) -> std::result::Result<(), (Errno, Error)> {
    for (file, value) in &setting.choices {
        let refuse = |errno, line: &str| (errno, refused(directory, setting, file, line, errno));
        let opened = match directory.file(file, OFlags::WRONLY) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(refuse(errno, value)),
        };
        if let Some(undo) = undo
            && let Ok(before) = directory.read(file)
        {
            undo.push(Undo { directory, file: file.clone(), value: before.trim_end().to_owned() });
        }
        // The files take one line a write.
        return value.lines().try_for_each(|line| write_value(&opened, line).map_err(|errno| refuse(errno, line)));
    }
    if setting.optional {
        return Ok(());
    }
    let (file, value) = &setting.choices[0];
    Err((Errno::NOENT, refused(directory, setting, file, value, Errno::NOENT)))
}

fn refused(directory: &Directory, setting: &Setting, file: &str, value: &str, errno: Errno) -> Error {
    let error = Error::syscall(directory.write_text(file, value), errno.raw_os_error())
        .context(format!("cannot set `{}` to `{value}`", setting.field));
    match errno {
        Errno::BUSY if file.starts_with("memory.") => {
            let read = |name| directory.read(name).ok().map(|text| text.trim().to_owned()).unwrap_or_default();
            error.with_kind(ErrorKind::Conflict).hint(format!(
                "in use are {} bytes, at most {}: choose a higher limit, or free memory first",
                read("memory.usage_in_bytes"),
                read("memory.max_usage_in_bytes")
            ))
        }
        Errno::NOENT => error
            .with_kind(ErrorKind::Unsupported)
            .hint(format!("this kernel, or the configuration of its cgroups, has no `{file}`")),
        Errno::INVAL | Errno::RANGE => error
            .with_kind(ErrorKind::Invalid)
            .hint("the kernel refuses the value: it is out of its range, or beyond a limit of the cgroup above"),
        Errno::NODEV | Errno::NXIO => error.with_kind(ErrorKind::Invalid).hint("there is no such device on this host"),
        _ => error,
    }
}

/// Puts back what was there, last change first, as far as a file has one value; the files that stay changed.
pub(super) fn revert(undo: &[Undo<'_>]) -> Vec<String> {
    let put_back = |one: &Undo<'_>| {
        !one.value.contains('\n') && !one.value.is_empty() && one.directory.write(&one.file, &one.value).is_ok()
    };
    undo.iter().rev().filter(|one| !put_back(one)).map(|one| one.file.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read_as_the_kernel_does() {
        assert_eq!(parse_list("0-2,7\n"), Some(vec![0, 1, 2, 7]));
        for bad in ["", "a", "3-1", "1,,2", "-1", "0-99999"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn page_sizes_have_the_controllers_names() {
        assert_eq!([64, 2048, 1 << 20, 16 << 20].map(page_size), ["64KB", "2MB", "1GB", "16GB"]);
    }

    #[test]
    fn unknown_page_sizes_are_named() {
        let limit = HugepageLimit { page_size: "3MB".into(), limit: 1 };
        let resources = Resources { hugepage_limits: vec![limit], ..Resources::default() };
        let error = settings(&resources, true, &|_, _| None).unwrap_err();
        assert!(error.message().starts_with("`linux.resources.hugepageLimits[0].pageSize` is `3MB`"), "{error}");
    }

    #[test]
    fn a_limit_below_the_usage_is_refused_where_asked() {
        let memory = corten_types::runtime_spec::Memory {
            limit: Some(4096),
            check_before_update: Some(true),
            ..Default::default()
        };
        let resources = Resources { memory: Some(memory), ..Resources::default() };
        let usage = |_: &str, file: &str| (file == "memory.current").then(|| "8192\n".to_owned());
        assert!(check_usage(&resources, &usage).unwrap_err().message().contains("<= usage 8192"));
        assert!(check_usage(&resources, &|_, _| None).is_ok());
    }
}
