//! Kernel parameters of the container's own namespaces (config-linux.md, "Sysctl"; namespaces(7)).

use std::collections::BTreeMap;

use corten_fs::Root;
use corten_sys::Call as _;
use corten_types::kernel::sysctl_namespace;
use corten_types::{Context as _, Error, Result};
use rustix::fs::{Mode, OFlags};

use crate::namespaces::NamespacePlan;
use crate::procfs;

/// Paths beneath /proc/sys and their values.
#[derive(Debug, Default)]
pub(crate) struct SysctlPlan(Vec<(String, String)>);

impl SysctlPlan {
    /// Only what belongs to a namespace of the container's own passes.
    pub(crate) fn build(sysctl: &BTreeMap<String, String>, namespaces: &NamespacePlan) -> Result<Self> {
        let mut list = Vec::with_capacity(sysctl.len());
        for (name, value) in sysctl {
            let dotted = dotted(name)?;
            if value.contains('\0') {
                return Err(Error::invalid(format!("the value of sysctl `{name}` contains a NUL character")));
            }
            let Some(kind) = sysctl_namespace(&dotted) else {
                return Err(Error::invalid(format!("sysctl `{name}` is not in a separate kernel namespace"))
                    .hint("only sysctls of the ipc, network and uts namespaces can differ from the host's"));
            };
            if !namespaces.has(kind) {
                return Err(Error::invalid(format!(
                    "sysctl `{name}` is not allowed: the container shares the host's {} namespace",
                    crate::namespaces::name(kind)
                )));
            }
            list.push((dotted.replace('.', "/").replace('\u{1}', "."), value.clone()));
        }
        Ok(Self(list))
    }

    /// Writes them, through a fresh procfs.
    pub(crate) fn apply(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let procfs = Root::from_fd(procfs::mount_or_verify()?, "procfs").beneath();
        self.0.iter().try_for_each(|(path, value)| {
            write(&procfs, path, value)
                .context(|| format!("cannot set sysctl `{}` to `{value}`", path.replace('/', ".")))
        })
    }
}

fn write(procfs: &Root, path: &str, value: &str) -> Result<()> {
    let path = format!("sys/{path}");
    // Something else may be mounted in there.
    let file = procfs::verify(procfs.open(&path, OFlags::WRONLY, Mode::empty())?)?;
    rustix::io::write(&file, value.as_bytes()).call(|| format!("write(\"{path}\", \"{value}\")")).map(drop)
}

/// The dotted form; a name in slash form keeps its dots (sysctl.d(5)), marked by U+0001 until it becomes a path.
fn dotted(name: &str) -> Result<String> {
    let sound = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
        && !name.starts_with(['.', '/'])
        && !name.split(['.', '/']).any(str::is_empty);
    if !sound {
        return Err(Error::invalid(format!("`linux.sysctl`: `{}` is not the name of a sysctl", name.escape_debug())));
    }
    let slash_first = matches!((name.find('/'), name.find('.')), (Some(slash), Some(dot)) if slash < dot)
        || (name.contains('/') && !name.contains('.'));
    if slash_first {
        return Ok(name.replace('.', "\u{1}").replace('/', "."));
    }
    Ok(name.replace('/', "\u{1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_both_forms() {
        assert_eq!(dotted("net.ipv4.ip_forward").unwrap(), "net.ipv4.ip_forward");
        assert_eq!(dotted("net/ipv4/conf/eth0.100/rp_filter").unwrap(), "net.ipv4.conf.eth0\u{1}100.rp_filter");
        assert_eq!(dotted("net.ipv4.conf.eth0/100.rp_filter").unwrap(), "net.ipv4.conf.eth0\u{1}100.rp_filter");
        for bad in ["", "../x", "net..x", "a+b", "/net", "net.a=b", "net.\n"] {
            assert!(dotted(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_belongs_to_no_namespace_is_refused() {
        let sysctl = BTreeMap::from([("kernel.panic".to_owned(), "1".to_owned())]);
        let error = SysctlPlan::build(&sysctl, &NamespacePlan::default()).unwrap_err();
        assert_eq!(error.message(), "sysctl `kernel.panic` is not in a separate kernel namespace");
        let sysctl = BTreeMap::from([("net.ipv4.ip_forward".to_owned(), "1".to_owned())]);
        let error = SysctlPlan::build(&sysctl, &NamespacePlan::default()).unwrap_err();
        assert!(error.message().ends_with("shares the host's network namespace"), "{error}");
    }
}
