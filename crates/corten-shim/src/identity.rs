//! Who the program runs as: `USER[:GROUP]` of the request against /etc/passwd and /etc/group beneath the container's root.
//!
//! A number is a number: it never falls back to a name, and a name never to a number. Both files belong to the image, so
//! they are read bounded, as regular files only, and a line that does not parse counts for nothing.

use corten_fs::Root;
use corten_types::runtime_spec::User;
use corten_types::{Context, Error, ErrorKind, Result};

/// Largest passwd or group file that is read, bytes.
const DATABASE_SIZE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most supplementary groups (NGROUPS_MAX).
const GROUPS_MAX: usize = 65536;
/// The id that chown(2) takes for "leave it": nobody's.
const NO_ID: u32 = u32::MAX;

/// The program's identity and home.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Identity {
    /// User, group, supplementary groups.
    pub(crate) user: User,
    /// Home directory; `/` where the user has no entry.
    pub(crate) home: String,
}

/// One half of `USER[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Who<'a> {
    fn parse(word: &'a str) -> Result<Self> {
        if word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty() {
            return match word.parse() {
                Ok(NO_ID) | Err(_) => {
                    Err(Error::invalid(format!("`{word}` is no user or group id: ids are 0 to {}", NO_ID - 1)))
                }
                Ok(id) => Ok(Self::Id(id)),
            };
        }
        let fits = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '/' | ',');
        if word.is_empty() || word.len() > 256 || word.starts_with(['-', '+']) || !word.chars().all(fits) {
            return Err(Error::invalid(format!("`{}` is no user or group", word.escape_debug())));
        }
        Ok(Self::Name(word))
    }
}

/// One line of passwd(5) that parsed.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of group(5) that parsed.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user` (empty is root) and the further `groups` beneath `root`.
pub(crate) fn resolve(root: &Root, user: &str, groups: &[String]) -> Result<Identity> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    resolve_in(&passwd, &group, user, groups)
}

fn read(root: &Root, path: &str) -> Result<String> {
    match root.read(path, DATABASE_SIZE_BYTES_MAX) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(error) if matches!(error.errno(), Some(2 | 20)) => Ok(String::new()),
        Err(error) => Err(error).context(|| format!("cannot use the image's `{path}`")),
    }
}

fn resolve_in(passwd: &str, group: &str, user: &str, groups: &[String]) -> Result<Identity> {
    let (user, primary) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let who = if user.is_empty() { Who::Id(0) } else { Who::parse(user)? };
    let account = accounts(passwd).find(|account| match who {
        Who::Id(id) => account.uid == id,
        Who::Name(name) => account.name == name,
    });
    let uid = match (&who, &account) {
        (Who::Id(id), _) => *id,
        (Who::Name(_), Some(account)) => account.uid,
        (Who::Name(name), None) => return Err(unknown("user", name, "/etc/passwd")),
    };
    let gid = match primary {
        Some(word) => group_id(group, word)?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut additional = vec![gid];
    if let (None, Some(account)) = (primary, &account) {
        let member = |entry: &Group<'_>| entry.members.split(',').any(|name| name == account.name);
        additional.extend(entries(group).filter(member).map(|entry| entry.gid));
    }
    for word in groups {
        additional.push(group_id(group, word)?);
    }
    let home = account.map_or("", |account| account.home);
    let home = if home.starts_with('/') && !home.chars().any(char::is_control) { home } else { "/" };
    Ok(Identity {
        user: User { uid, gid, additional_gids: distinct(additional)?, ..User::default() },
        home: home.to_owned(),
    })
}

fn group_id(group: &str, word: &str) -> Result<u32> {
    match Who::parse(word)? {
        Who::Id(id) => Ok(id),
        Who::Name(name) => entries(group)
            .find(|entry| entry.name == name)
            .map(|entry| entry.gid)
            .ok_or_else(|| unknown("group", name, "/etc/group")),
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("unable to find {what} `{name}`: no entry in the image's `{file}`"))
        .hint("a number needs no entry: `--user 1000:1000`")
}

fn distinct(ids: Vec<u32>) -> Result<Vec<u32>> {
    let mut seen = std::collections::HashSet::new();
    let ids: Vec<u32> = ids.into_iter().filter(|id| seen.insert(*id)).collect();
    if ids.len() > GROUPS_MAX {
        return Err(Error::new(ErrorKind::Exhausted, format!("the user is in more than {GROUPS_MAX} groups")));
    }
    Ok(ids)
}

/// An id as the databases write it: digits alone.
fn id(field: &str) -> Option<u32> {
    let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
    field.parse().ok().filter(|id| digits && *id != NO_ID)
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn entries(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some(Group { name, gid: id(fields.nth(1)?)?, members: fields.next().unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# note\nbad:x:4294967295:0::/:\nmangled:x:-1:0::/:\n\
                          app:x:1000:1001:App:/home/app:/bin/sh\n1234:x:0:0:number as a name:/root:/bin/sh\nshort:x:5\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\naudio:x:29:app\n0777:x:0:\n";

    fn ids(user: &str) -> (u32, u32, Vec<u32>, String) {
        let identity = resolve_in(PASSWD, GROUP, user, &[]).unwrap();
        (identity.user.uid, identity.user.gid, identity.user.additional_gids, identity.home)
    }

    fn message(user: &str) -> String {
        resolve_in(PASSWD, GROUP, user, &[]).unwrap_err().one_line()
    }

    #[test]
    fn names_and_numbers_find_their_groups_and_home() {
        assert_eq!(ids(""), (0, 0, vec![0, 10], "/root".to_owned()));
        assert_eq!(ids("app"), (1000, 1001, vec![1001, 10, 29], "/home/app".to_owned()));
        assert_eq!(ids("1000"), ids("app"));
        assert_eq!(ids("app:wheel"), (1000, 10, vec![10], "/home/app".to_owned()));
        assert_eq!(ids("77"), (77, 0, vec![0], "/".to_owned()));
        assert_eq!(ids("77:88"), (77, 88, vec![88], "/".to_owned()));
        assert_eq!(ids(":29"), (0, 29, vec![29], "/root".to_owned()));
    }

    #[test]
    fn a_number_never_falls_back_to_a_name_nor_becomes_root() {
        assert_eq!(ids("1234").0, 1234);
        assert_eq!(ids("5:0777").1, 777);
        for user in ["4294967295", "4294967296", "4294967296:0", "18446744073709551616", "0:4294967295"] {
            assert!(message(user).contains("ids are 0 to 4294967294"), "{user}");
        }
        assert_eq!(ids("4294967294").0, 4_294_967_294);
        for user in ["-1", "+1", "-0", " 0", "0 ", "a\nb", "0:-1", "0,1", "a/b"] {
            assert!(message(user).contains("is no user or group"), "{user}");
        }
    }

    #[test]
    fn lines_that_do_not_parse_count_for_nothing() {
        for user in ["bad", "mangled", "short", "nobody", "#"] {
            assert!(message(user).contains("unable to find user"), "{user}");
        }
        assert!(message("app:nogroup").contains("unable to find group"));
    }

    #[test]
    fn further_groups_are_added_once() {
        let groups = ["audio", "29", "500", "wheel"].map(str::to_owned);
        let identity = resolve_in(PASSWD, GROUP, "root", &groups).unwrap();
        assert_eq!(identity.user.additional_gids, [0, 10, 29, 500]);
    }

    #[test]
    fn a_home_with_control_letters_is_not_passed_on() {
        let identity = resolve_in("a:x:5:5::/x\u{1b}y:\nb:x:6:6::home:\n", "", "a", &[]).unwrap();
        assert_eq!(identity.home, "/");
        assert_eq!(resolve_in("b:x:6:6::home:\n", "", "b", &[]).unwrap().home, "/");
    }

    #[test]
    fn strange_files_are_refused_quickly() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open_ambient(directory.path()).unwrap();
        assert_eq!(resolve(&root, "", &[]).unwrap().home, "/");
        root.create_dir("etc", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        root.mknod("etc/passwd", rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0).unwrap();
        let begun = std::time::Instant::now();
        assert!(resolve(&root, "root", &[]).unwrap_err().one_line().contains("regular file"));
        root.remove_file("etc/passwd").unwrap();
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        let file = root.open("etc/passwd", flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
        rustix::fs::ftruncate(&file, 10 << 30).unwrap();
        assert!(resolve(&root, "0", &[]).unwrap_err().one_line().contains("longer than"));
        root.remove_file("etc/passwd").unwrap();
        root.symlink("/dev/zero", "etc/passwd").unwrap();
        assert_eq!(resolve(&root, "0", &[]).unwrap().user.uid, 0, "a link stays inside the root");
        assert!(begun.elapsed().as_millis() < 1000);
    }
}
