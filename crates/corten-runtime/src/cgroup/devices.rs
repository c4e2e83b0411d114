//! Which devices a container may use, as an ordered list of rules of which the last that matches decides; and the same as
//! writes to the devices controller of cgroup v1.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use corten_types::runtime_spec::{Device, DeviceRule};
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::directory::{Directory, write_value};

/// `mknod`
pub(super) const MKNOD: u8 = 1;
/// `read`
pub(super) const READ: u8 = 2;
/// `write`
pub(super) const WRITE: u8 = 4;
/// Every access.
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// What every container may use, whatever its rules say: runc's list and the console, as (block, major, minor, access).
const DEFAULTS: [(bool, Option<u32>, Option<u32>, u8); 12] = [
    (false, None, None, MKNOD),
    (true, None, None, MKNOD),
    (false, Some(1), Some(3), ALL),    // null
    (false, Some(1), Some(5), ALL),    // zero
    (false, Some(1), Some(7), ALL),    // full
    (false, Some(1), Some(8), ALL),    // random
    (false, Some(1), Some(9), ALL),    // urandom
    (false, Some(5), Some(0), ALL),    // tty
    (false, Some(5), Some(1), ALL),    // console
    (false, Some(5), Some(2), ALL),    // ptmx
    (false, Some(136), None, ALL),     // pts
    (false, Some(10), Some(200), ALL), // net/tun, which engines leave to the runtime
];

/// Which devices a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    /// `None`: any.
    pub(super) major: Option<u32>,
    /// `None`: any.
    pub(super) minor: Option<u32>,
    /// Block devices rather than character devices.
    pub(super) block: bool,
}

/// One rule for one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Every access to every device.
    Everything {
        /// Allowed or denied.
        allow: bool,
    },
    /// Some access to some devices.
    Some {
        /// Allowed or denied.
        allow: bool,
        /// The devices.
        devices: Match,
        /// Some of [`ALL`].
        access: u8,
        /// Whether it is one of ours rather than asked for.
        default: bool,
    },
}

/// The rules of a container, first to last; what no rule matches is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) rules: Vec<Rule>,
}

impl Policy {
    /// Checks the document's rules and adds the defaults. Without any rule the container's own `devices` are allowed too.
    pub(super) fn new(rules: &[DeviceRule], devices: &[Device]) -> Result<Self> {
        let mut list = Vec::with_capacity(rules.len() + DEFAULTS.len());
        for (index, rule) in rules.iter().enumerate() {
            parse(rule, &format!("linux.resources.devices[{index}]"), &mut list)?;
        }
        if rules.is_empty() {
            for (index, device) in devices.iter().enumerate() {
                list.extend(own_device(device, index)?);
            }
        }
        list.extend(DEFAULTS.iter().map(|(block, major, minor, access)| Rule::Some {
            allow: true,
            devices: Match { major: *major, minor: *minor, block: *block },
            access: *access,
            default: true,
        }));
        Ok(Self { rules: list })
    }

    /// Whether nothing is denied.
    pub(super) fn allows_everything(&self) -> bool {
        let deny = |rule: &Rule| matches!(rule, Rule::Some { allow: false, .. } | Rule::Everything { allow: false });
        let last = self.rules.iter().rposition(|rule| *rule == Rule::Everything { allow: true });
        last.is_some_and(|at| !self.rules[at..].iter().any(deny))
    }
}

fn own_device(device: &Device, index: usize) -> Result<Option<Rule>> {
    let block = match device.kind.as_str() {
        "b" => true,
        "c" | "u" => false,
        _ => return Ok(None),
    };
    let major = number(Some(device.major), &format!("linux.devices[{index}].major"))?;
    let minor = number(Some(device.minor), &format!("linux.devices[{index}].minor"))?;
    Ok(Some(Rule::Some { allow: true, devices: Match { major, minor, block }, access: ALL, default: false }))
}

fn parse(rule: &DeviceRule, field: &str, list: &mut Vec<Rule>) -> Result<()> {
    let major = number(rule.major, &format!("{field}.major"))?;
    let minor = number(rule.minor, &format!("{field}.minor"))?;
    let access = access(&rule.access, &format!("{field}.access"))?;
    let kinds: &[bool] = match rule.kind.as_str() {
        "" | "a" if major.is_none() && minor.is_none() && access == ALL => {
            list.push(Rule::Everything { allow: rule.allow });
            return Ok(());
        }
        "" | "a" => &[false, true],
        "c" => &[false],
        "b" => &[true],
        other => {
            return Err(Error::invalid(format!("`{field}.type` is `{}`", other.escape_debug()))
                .hint("a device rule is for `c` (character), `b` (block) or `a` (all) devices"));
        }
    };
    list.extend(kinds.iter().map(|block| Rule::Some {
        allow: rule.allow,
        devices: Match { major, minor, block: *block },
        access,
        default: false,
    }));
    Ok(())
}

fn number(value: Option<i64>, field: &str) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| Error::invalid(format!("`{field}` is {value}; 0 to 4294967295, or -1 for any, is expected"))),
    }
}

fn access(letters: &str, field: &str) -> Result<u8> {
    if letters.is_empty() {
        return Ok(ALL);
    }
    letters.chars().try_fold(0, |access, letter| match letter {
        'r' => Ok(access | READ),
        'w' => Ok(access | WRITE),
        'm' => Ok(access | MKNOD),
        // The letter for "every kind" of cgroup v1's own files; other runtimes pass over it.
        'a' => Ok(access),
        _ => Err(Error::invalid(format!("`{field}` is `{}`; some of `rwm` are expected", letters.escape_debug()))),
    })
}

/// What the devices controller of cgroup v1 can hold: a default, and exceptions to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Controller {
    allow: bool,
    exceptions: BTreeMap<Match, u8>,
    /// Exceptions that only the defaults ask for: refused by a stricter parent, they are left out.
    defaults: BTreeMap<Match, u8>,
}

/// One write: to `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    allow: bool,
    line: String,
    dispensable: bool,
}

impl Controller {
    /// The state that the rules describe; an error where the controller cannot express it.
    pub(super) fn of(policy: &Policy) -> Result<Self> {
        let mut state = Self::default();
        for rule in &policy.rules {
            match *rule {
                Rule::Everything { allow } => state = Self { allow, ..Self::default() },
                Rule::Some { allow, devices, access, .. } if allow == state.allow => state.take(devices, access)?,
                Rule::Some { devices, access, default, .. } => {
                    let held = state.exceptions.entry(devices).or_default();
                    if default && *held & access != access {
                        *state.defaults.entry(devices).or_default() |= access & !*held;
                    }
                    *held |= access;
                }
            }
        }
        Ok(state)
    }

    /// What `devices.list` says; with a default of allow the kernel does not tell the exceptions.
    pub(super) fn parse(list: &str) -> Self {
        let mut state = Self::default();
        for line in list.lines() {
            let words: Vec<&str> = line.split([' ', ':']).collect();
            let [kind, major, minor, letters] = words[..] else { continue };
            if kind == "a" {
                return Self { allow: true, ..Self::default() };
            }
            let devices = Match { major: major.parse().ok(), minor: minor.parse().ok(), block: kind == "b" };
            *state.exceptions.entry(devices).or_default() |= access(letters, "devices.list").unwrap_or(0);
        }
        state
    }

    /// What is allowed, where that is a list.
    pub(super) fn allowed(&self) -> Option<Vec<(Match, String)>> {
        (!self.allow).then(|| self.exceptions.iter().map(|(devices, held)| (*devices, letters(*held))).collect())
    }

    /// Takes `access` back from every exception within `devices`.
    fn take(&mut self, devices: Match, access: u8) -> Result<()> {
        let punched = self
            .exceptions
            .iter()
            .find(|(wide, held)| wide.covers(devices) && !devices.covers(**wide) && **held & access != 0);
        if let Some((wide, held)) = punched {
            let word = if self.allow { "denies" } else { "allows" };
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the device rule for `{}` contradicts an earlier one that {word} `{}`",
                    devices.line(access),
                    wide.line(*held)
                ),
            )
            .hint("cgroup v1 cannot except a part of a wildcard rule: narrow the wider rule"));
        }
        self.exceptions.retain(|held, bits| {
            if devices.covers(*held) {
                *bits &= !access;
            }
            *bits != 0
        });
        Ok(())
    }

    /// The writes that lead from `current` (unknown: start over) to this state, touching as little as possible.
    pub(super) fn changes_from(&self, current: Option<&Self>) -> Vec<Change> {
        let mut changes = Vec::new();
        let known = current.filter(|current| !current.allow && !self.allow);
        if known.is_none() {
            changes.push(Change { allow: self.allow, line: "a".to_owned(), dispensable: false });
        }
        let none = BTreeMap::new();
        let old = known.map_or(&none, |current| &current.exceptions);
        let bits = |map: &BTreeMap<Match, u8>, devices: &Match| map.get(devices).copied().unwrap_or(0);
        for (devices, held) in old {
            let lost = held & !bits(&self.exceptions, devices);
            if lost != 0 {
                changes.push(Change { allow: self.allow, line: devices.line(lost), dispensable: false });
            }
        }
        for (devices, wanted) in &self.exceptions {
            let gained = wanted & !bits(old, devices);
            let dispensable = gained & bits(&self.defaults, devices);
            for (access, dispensable) in [(gained & !dispensable, false), (dispensable, true)] {
                if access != 0 {
                    changes.push(Change { allow: !self.allow, line: devices.line(access), dispensable });
                }
            }
        }
        changes
    }
}

impl Match {
    fn covers(self, other: Self) -> bool {
        let within = |mine: Option<u32>, other: Option<u32>| mine.is_none() || mine == other;
        self.block == other.block && within(self.major, other.major) && within(self.minor, other.minor)
    }

    /// As the controller reads it: `c 1:3 rwm`.
    pub(super) fn line(self, access: u8) -> String {
        let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), letters(access))
    }
}

/// `rwm`, as far as in `access`.
pub(super) fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0).map(|(_, one)| one).collect()
}

/// Writes `changes` to the controller's files.
pub(super) fn write_changes(directory: &Directory, changes: &[Change]) -> Result<()> {
    let (mut allow, mut deny) = (None, None);
    for change in changes {
        let (name, file) = if change.allow { ("devices.allow", &mut allow) } else { ("devices.deny", &mut deny) };
        match write_change(directory, name, file, &change.line) {
            Ok(()) => {}
            Err(Errno::PERM) if change.dispensable => {}
            Err(errno) => return Err(Error::syscall(directory.write_text(name, &change.line), errno.raw_os_error())),
        }
    }
    Ok(())
}

fn write_change(directory: &Directory, name: &str, file: &mut Option<OwnedFd>, line: &str) -> rustix::io::Result<()> {
    let file = match file {
        Some(file) => file,
        None => file.insert(directory.file(name, OFlags::WRONLY)?),
    };
    write_value(file, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), major: Some(major), minor: Some(minor), access: access.into() }
    }

    fn lines(rules: &[DeviceRule], current: Option<&str>) -> Vec<String> {
        let state = Controller::of(&Policy::new(rules, &[]).unwrap()).unwrap();
        let changes = state.changes_from(current.map(Controller::parse).as_ref());
        changes.iter().map(|change| format!("{} {}", if change.allow { '+' } else { '-' }, change.line)).collect()
    }

    #[test]
    fn no_rule_denies_all_but_the_defaults() {
        let lines = lines(&[], None);
        assert_eq!((lines.len(), lines[0].as_str()), (13, "- a"));
        assert!(lines.contains(&"+ c 1:3 rwm".to_owned()) && lines.contains(&"+ b *:* m".to_owned()));
    }

    #[test]
    fn own_devices_are_allowed_where_no_rule_speaks() {
        let fuse = Device { kind: "c".into(), major: 10, minor: 229, path: "/dev/fuse".into(), ..Device::default() };
        let fifo = Device { kind: "p".into(), path: "/run/fifo".into(), ..Device::default() };
        let devices = [fuse, fifo];
        let policy = Policy::new(&[], &devices).unwrap();
        assert_eq!(policy.rules.len(), 13);
        assert_eq!(Policy::new(&[rule(false, "a", -1, -1, "rwm")], &devices).unwrap().rules.len(), 13);
    }

    #[test]
    fn all_devices_for_a_privileged_container() {
        let all = DeviceRule { allow: true, access: "rwm".into(), ..DeviceRule::default() };
        assert_eq!(lines(std::slice::from_ref(&all), None), ["+ a"]);
        assert!(Policy::new(std::slice::from_ref(&all), &[]).unwrap().allows_everything());
        let but_one = [all, rule(false, "b", 8, 0, "w")];
        assert_eq!(lines(&but_one, None), ["+ a", "- b 8:0 w"]);
        assert!(!Policy::new(&but_one, &[]).unwrap().allows_everything());
    }

    #[test]
    fn a_rule_for_all_kinds_with_a_number_is_not_all_devices() {
        let one = rule(true, "", 10, 229, "rw");
        let lines = lines(&[one], None);
        assert!(
            lines.contains(&"+ c 10:229 rw".to_owned()) && lines.contains(&"+ b 10:229 rw".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn a_living_container_is_changed_with_few_writes() {
        let before = "c *:* m\nb *:* m\nc 1:3 rwm\nc 1:5 rwm\nc 1:7 rwm\nc 1:8 rwm\nc 1:9 rwm\nc 5:0 rwm\nc 5:1 rwm\n\
                      c 5:2 rwm\nc 136:* rwm\nc 10:200 rwm\nb 8:0 rw\n";
        let lines = lines(&[rule(false, "a", -1, -1, "rwm"), rule(true, "b", 8, 0, "r")], Some(before));
        assert_eq!(lines, ["- b 8:0 w"]);
    }

    #[test]
    fn a_later_wider_denial_takes_back_and_a_narrower_one_is_refused() {
        let rules = [rule(true, "c", 10, 229, "rwm"), rule(false, "c", -1, -1, "rwm")];
        assert!(!lines(&rules, None).iter().any(|line| line.contains("10:229")));
        let rules = [rule(true, "c", 10, -1, "rwm"), rule(false, "c", 10, 229, "w")];
        let error = Controller::of(&Policy::new(&rules, &[]).unwrap()).unwrap_err();
        assert!(error.message().contains("`c 10:229 w`"), "{error}");
    }

    #[test]
    fn bad_rules_are_named() {
        let error = |rule| Policy::new(&[rule], &[]).unwrap_err().message().to_owned();
        assert!(error(rule(true, "x", 1, 1, "r")).contains("linux.resources.devices[0].type"));
        assert!(error(rule(true, "c", -2, 1, "r")).contains("linux.resources.devices[0].major"));
        assert!(error(rule(true, "c", 1, 1 << 32, "r")).contains("linux.resources.devices[0].minor"));
        assert!(error(rule(true, "c", 1, 1, "rx")).contains("linux.resources.devices[0].access"));
    }
}
