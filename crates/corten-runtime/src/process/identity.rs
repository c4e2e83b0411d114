//! User, groups and umask of the program, and its home directory.

use std::io::Read as _;

use corten_sys::Call as _;
use corten_types::runtime_spec::User;
use corten_types::{Error, Result};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::thread::CapabilitiesSecureBits;

/// Most bytes of a passwd file that are searched.
const PASSWD_SIZE_BYTES_MAX: u64 = 1 << 20;

/// Identity inside the container.
#[derive(Debug)]
pub(crate) struct IdentityPlan {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    groups: Vec<Gid>,
    umask: u32,
}

impl IdentityPlan {
    pub(crate) fn build(user: &User) -> Result<Self> {
        for (field, id) in [("uid", user.uid), ("gid", user.gid)] {
            valid(&format!("process.user.{field}"), id)?;
        }
        for (index, id) in user.additional_gids.iter().enumerate() {
            valid(&format!("process.user.additionalGids[{index}]"), *id)?;
        }
        let umask = user.umask.unwrap_or(0o022);
        if umask > 0o7777 {
            return Err(Error::invalid(format!("`process.user.umask` is {umask:#o}, above 0o7777")));
        }
        let groups = user.additional_gids.iter().map(|id| Gid::from_raw(*id)).collect();
        Ok(Self { uid: user.uid, gid: user.gid, groups, umask })
    }

    /// Becomes that user and keeps the permitted capabilities until they are set.
    pub(crate) fn apply(&self) -> Result<()> {
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        give_stdio(Uid::from_raw(self.uid));
        match rustix::thread::set_thread_groups(&self.groups) {
            // A user namespace with one mapped id forbids setgroups (user_namespaces(7)); nothing was asked for either.
            Err(rustix::io::Errno::PERM) if self.groups.is_empty() => {}
            result => result.call(|| format!("setgroups({:?})", self.groups)).map_err(|error| {
                error.hint(
                    "supplementary groups need more mapped ids than your own: /etc/subgid and the package `uidmap`",
                )
            })?,
        }
        let gid = Gid::from_raw(self.gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).call(|| format!("setresgid({0}, {0}, {0})", self.gid))?;
        let kept = CapabilitiesSecureBits::KEEP_CAPS;
        let before = rustix::thread::capabilities_secure_bits().call(|| "prctl(PR_GET_SECUREBITS)")?;
        let _unprivileged = rustix::thread::set_capabilities_secure_bits(before | kept)
            .or_else(|_| rustix::thread::set_keep_capabilities(true));
        let uid = Uid::from_raw(self.uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).call(|| format!("setresuid({0}, {0}, {0})", self.uid))?;
        rustix::thread::set_keep_capabilities(false).call(|| "prctl(PR_SET_KEEPCAPS, 0)")?;
        Ok(())
    }
}

/// All ones means "no change" to setresuid and its kin: never an id.
fn valid(field: &str, id: u32) -> Result<()> {
    if id == u32::MAX {
        return Err(Error::invalid(format!("`{field}` is {id}, which is not an id")));
    }
    Ok(())
}

/// The program may reopen its standard descriptors: they become its own. What cannot change owner stays as it is.
fn give_stdio(uid: Uid) {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(file) = rustix::fs::fstat(fd) else { continue };
        let null = FileType::from_raw_mode(file.st_mode).is_char_device()
            && (rustix::fs::major(file.st_rdev), rustix::fs::minor(file.st_rdev)) == (1, 3);
        if file.st_uid != uid.as_raw() && !null {
            let _shared = rustix::fs::fchown(fd, Some(uid), None);
        }
    }
}

/// The home directory of `uid` in /etc/passwd, which now is the container's; `/` where it has none.
pub(crate) fn home_of(uid: u32) -> String {
    read_passwd().and_then(|text| find_home(&text, uid)).unwrap_or_else(|| "/".to_owned())
}

/// A container's file: only a regular one, and not without end.
fn read_passwd() -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
    if !kind.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(PASSWD_SIZE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn find_home(passwd: &str, uid: u32) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = fields.filter(|fields| fields.len() >= 6).find(|fields| fields[2].parse() == Ok(uid))?;
    (!entry[5].is_empty() && !entry[5].contains('\0')).then(|| entry[5].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_number_and_never_guessed() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nu:x:1000:1000::/home/u:/bin/sh\nn:x:7:7:::\n";
        assert_eq!(
            [0, 1000, 7, 5].map(|uid| find_home(passwd, uid)),
            [Some("/root".into()), Some("/home/u".into()), None, None]
        );
    }

    #[test]
    fn all_ones_is_no_id() {
        let user = User { uid: u32::MAX, ..User::default() };
        assert_eq!(
            IdentityPlan::build(&user).unwrap_err().message(),
            "`process.user.uid` is 4294967295, which is not an id"
        );
    }
}
