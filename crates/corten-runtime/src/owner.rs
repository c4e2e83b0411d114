//! The name behind a uid of the host, for `list` and `state`.

use std::path::Path;

/// Most bytes of /etc/passwd that are read.
const PASSWD_SIZE_BYTES_MAX: u64 = 1 << 20;

/// The user name of `uid` in /etc/passwd; `#UID` where it has none, `root` without a look.
pub(crate) fn name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let passwd = corten_fs::root::read_ambient(Path::new("/etc/passwd"), PASSWD_SIZE_BYTES_MAX).unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("#{uid}"))
}
