//! Capability names, and docker's arithmetic of `--cap-add`, `--cap-drop` and `--privileged`.

use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};

/// What an ordinary container has (docker's list, in its order).
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, by number (capabilities(7)).
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities that this process can hand on: its effective set, bit by number.
pub fn available() -> Result<u64> {
    let sets = rustix::thread::capabilities(None).call(|| "capget(0)")?;
    Ok(sets.effective.bits())
}

/// The capabilities of a container: docker's defaults changed by `--cap-add` and `--cap-drop`, or all of them.
///
/// Names may lack `CAP_`, be of any case, and be `ALL`. `available` are those that can be handed on ([`available`]): all
/// that ALL and `--privileged` mean, and all that can be added. As in docker, a name both added and dropped is added,
/// unless it was added by ALL.
pub fn container(add: &[String], drop: &[String], privileged: bool, available: u64) -> Result<Vec<&'static str>> {
    let all = NAMES.into_iter().filter(|name| is_in(name, available));
    if privileged {
        return Ok(all.collect());
    }
    let (add, drop) = (parse_list(add, available, "--cap-add")?, parse_list(drop, available, "--cap-drop")?);
    let mut result: Vec<&'static str> = match (add.all, drop.all) {
        (true, _) => return Ok(all.filter(|name| !drop.names.contains(name)).collect()),
        (false, true) => Vec::new(),
        // A default that is not there is not asked for by anybody, so its absence is no reason to refuse the container.
        (false, false) => {
            let kept = DEFAULT.into_iter().filter(|name| !drop.names.contains(name));
            kept.filter(|name| is_in(name, available)).collect()
        }
    };
    for name in add.names {
        if !result.contains(&name) {
            result.push(name);
        }
    }
    Ok(result)
}

/// The capability that `name` means: `net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one.
pub fn parse(name: &str) -> Result<&'static str> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = NAMES.into_iter().find(|known| &known["CAP_".len()..] == bare);
    known.ok_or_else(|| {
        Error::invalid(format!("unknown capability `CAP_{bare}`")).hint("`man 7 capabilities` lists them all")
    })
}

#[derive(Debug, Default)]
struct List {
    all: bool,
    names: Vec<&'static str>,
}

fn parse_list(names: &[String], available: u64, flag: &str) -> Result<List> {
    let mut list = List::default();
    for name in names {
        if name.eq_ignore_ascii_case("ALL") {
            list.all = true;
            continue;
        }
        let known = parse(name).map_err(|error| error.context(format!("cannot use `{flag} {name}`")))?;
        if !is_in(known, available) {
            let message = format!("capability `{known}` is not supported by this kernel or not available here");
            return Err(Error::new(ErrorKind::Denied, message).hint(format!("start without `{flag} {name}`")));
        }
        list.names.push(known);
    }
    Ok(list)
}

fn is_in(name: &str, set: u64) -> bool {
    NAMES.iter().position(|known| *known == name).is_some_and(|number| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn with(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        container(&words(add), &words(drop), false, ALL).unwrap()
    }

    #[test]
    fn names_are_read_in_every_spelling() {
        for spelling in ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_Net_Admin"] {
            assert_eq!(parse(spelling).unwrap(), "CAP_NET_ADMIN");
        }
        assert_eq!(parse("flying").unwrap_err().message(), "unknown capability `CAP_FLYING`");
        assert!(parse("").is_err() && parse("CAP_").is_err() && parse("CAP_CAP_KILL").is_err());
    }

    #[test]
    fn adding_and_dropping_is_docker_s() {
        assert_eq!(with(&[], &[]), DEFAULT);
        assert_eq!(with(&["NET_ADMIN", "chown"], &["mknod"]), {
            let mut expected: Vec<_> = DEFAULT.into_iter().filter(|name| *name != "CAP_MKNOD").collect();
            expected.push("CAP_NET_ADMIN");
            expected
        });
        assert_eq!(with(&["kill"], &["all"]), ["CAP_KILL"]);
        assert_eq!(with(&["all"], &[]), NAMES);
        assert_eq!(with(&["all"], &["sys_admin"]).len(), 40);
        assert_eq!(with(&["ALL"], &["ALL"]).len(), 41);
        assert!(with(&["kill"], &["kill"]).contains(&"CAP_KILL"));
        assert!(with(&[], &["all"]).is_empty());
    }

    #[test]
    fn privilege_is_all_there_is() {
        let without_resource = ALL & !(1 << 24);
        let privileged = container(&words(&[]), &words(&["kill"]), true, without_resource).unwrap();
        assert_eq!(privileged.len(), 40);
        assert!(!privileged.contains(&"CAP_SYS_RESOURCE"));
        let error = container(&words(&["sys_resource"]), &[], false, without_resource).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(!container(&[], &[], false, ALL & !1).unwrap().contains(&"CAP_CHOWN"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_flag() {
        let error = container(&[], &words(&["moon"]), false, ALL).unwrap_err();
        assert_eq!(error.chain(), ["cannot use `--cap-drop moon`", "unknown capability `CAP_MOON`"]);
    }

    #[test]
    fn this_process_can_be_asked() {
        assert_eq!(available().unwrap() >> NAMES.len(), 0);
    }
}
