//! `spec`: a config.json to start from; runc's example, value for value.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use corten_types::runtime_spec::Spec;
use corten_types::{Error, ErrorKind, Result};

use super::arguments::Arguments;
use super::{Context, list};

/// Magic number of a cgroup2 file system (statfs(2)).
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// `spec`
pub(super) fn spec(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let mut spec = Spec::example(is_cgroup2());
    if arguments.is_set("rootless") {
        spec.make_rootless(context.environment.uid, rustix::process::getegid().as_raw());
    }
    let bundle = arguments
        .path("bundle")
        .map_or_else(|| context.environment.working_directory.clone(), |bundle| context.environment.absolute(bundle));
    let path = bundle.join("config.json");
    let mut text = list::to_json_pretty(&spec, b"\t")?;
    text.push('\n');
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path);
    let write = file.and_then(|mut file| file.write_all(text.as_bytes()));
    write.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::AlreadyExists, "File config.json exists. Remove it first")
                .hint(format!("rm {path:?}"))
        }
        _ => Error::from(error).context(format!("cannot write {path:?}")),
    })?;
    Ok(0)
}

fn is_cgroup2() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup")
        .is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|t| t == CGROUP2_SUPER_MAGIC))
}
