//! The words that containerd starts a shim with: `start` makes or finds the shim of a bundle's group, `delete` cleans up
//! after one that died.
//!
//! ```text
//! /run/containerd/s/HASH      the shim's socket: one for each containerd, namespace and group
//! BUNDLE/address              its address, which containerd reads
//! BUNDLE/rootfs               the task's root, mounted in the shim's own mount namespace
//! STATE/NAMESPACE/ID          the runtime's record
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_fs::Root;
use corten_fs::atomic::{self, Durability, write_all};
use corten_sys::Call;
use corten_types::{Context, Error, Result};
use prost::Message;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::Digest;

use super::messages::DeleteResponse;
use super::{serve, task};

/// Where the sockets are (containerd's place for them).
const SOCKETS: &str = "/run/containerd/s";
/// Annotations by which containers share a shim.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
const CONFIG_SIZE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The end of a task whose shim was killed.
const KILLED: u32 = 137;

/// What containerd says, as words and as variables.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    pub(super) namespace: String,
    pub(super) id: String,
    pub(super) address: String,
    pub(super) publish_binary: String,
    pub(super) ttrpc_address: String,
    pub(super) bundle: PathBuf,
    action: String,
}

/// The role; `variables` is the environment, `directory` the bundle. An error has been told on standard error.
pub(super) fn run(args: &[OsString], variables: &BTreeMap<String, String>, directory: &Path) -> Result<()> {
    let mut words = parse(args)?;
    words.ttrpc_address = variables.get("TTRPC_ADDRESS").cloned().unwrap_or_default();
    if words.bundle.as_os_str().is_empty() {
        words.bundle = directory.to_path_buf();
    }
    match words.action.as_str() {
        "start" => start(&words, args),
        "delete" => delete(&words),
        "" => serve::serve(words),
        other => Err(Error::invalid(format!("`{other}` is not an action of a shim: `start` and `delete` are"))),
    }
}

/// Flags as Go's `flag` reads them: one or two hyphens, the value behind a space or `=`.
fn parse(args: &[OsString]) -> Result<Words> {
    let mut words = Words::default();
    let mut args = args.iter().map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = args.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            words.action = word;
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if name == "debug" {
            continue;
        }
        let value = value.or_else(|| args.next()).ok_or_else(|| Error::invalid(format!("`-{name}` needs a value")))?;
        match name {
            "namespace" => words.namespace = value,
            "id" => words.id = value,
            "address" => words.address = value,
            "publish-binary" => words.publish_binary = value,
            "bundle" => words.bundle = value.into(),
            // The socket is handed over as standard input.
            "socket" => {}
            _ => return Err(Error::invalid(format!("`-{name}` is not a flag of a shim"))),
        }
    }
    Ok(words)
}

/// The directory of the runtime's records of a namespace.
pub(super) fn state_directory(namespace: &str) -> Result<PathBuf> {
    let place = Path::new("run/containerd/corten").join(namespace);
    let root = Root::open_ambient(Path::new("/"))?;
    root.create_dir_all(&place, Mode::RWXU).context(|| format!("cannot make `/{}`", place.display()))?;
    Ok(Path::new("/").join(place))
}

/// Finds the shim of the bundle's group or starts one; its address goes to standard output.
fn start(words: &Words, args: &[OsString]) -> Result<()> {
    let bundle = Root::open_ambient(&words.bundle)?.beneath();
    let group = group_of(&bundle)?.unwrap_or_else(|| words.id.clone());
    let mut name = String::new();
    for byte in sha2::Sha256::digest(format!("{}/{}/{group}", words.address, words.namespace)) {
        write!(name, "{byte:02x}").ok();
    }
    Root::open_ambient(Path::new("/"))?.create_dir_all(SOCKETS.trim_start_matches('/'), Mode::from_raw_mode(0o711))?;
    let path = format!("{SOCKETS}/{name}");
    let address = format!("unix://{path}");
    if let Some(listener) = listen(&path)? {
        let flags = args.iter().filter(|word| *word != "start");
        let mut command = Command::new("/proc/self/exe");
        command.arg0("containerd-shim-corten-v2").args(flags).env_clear().env("TTRPC_ADDRESS", &words.ttrpc_address);
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.current_dir(&words.bundle).spawn().context(|| "cannot start the shim")?;
    }
    atomic::replace(&bundle, "address", address.as_bytes(), 0o600, Durability::Volatile)?;
    write_all(std::io::stdout().as_fd(), address.as_bytes()).call(|| "write(1)")
}

/// A socket that listens; `None` where somebody does already.
fn listen(path: &str) -> Result<Option<OwnedFd>> {
    let new = || {
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .call(|| "socket(AF_UNIX)")
    };
    let address = SocketAddrUnix::new(path).call(|| "sockaddr_un")?;
    match rustix::net::connect(new()?, &address) {
        Ok(()) => return Ok(None),
        // Of a shim that is gone.
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).call(|| format!("unlink({path:?})"))?,
        Err(_) => {}
    }
    let socket = new()?;
    rustix::net::bind(&socket, &address).call(|| format!("bind({path:?})"))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600)).call(|| format!("chmod({path:?})"))?;
    rustix::net::listen(&socket, 128).call(|| format!("listen({path:?})"))?;
    Ok(Some(socket))
}

/// The group that the bundle's annotations name.
fn group_of(bundle: &Root) -> Result<Option<String>> {
    let json = bundle.read("config.json", CONFIG_SIZE_BYTES_MAX)?;
    let spec: corten_types::runtime_spec::Spec = corten_types::runtime_spec::parse_document(&json, "config.json")?;
    Ok(GROUPS.iter().find_map(|name| spec.annotations.get(*name).cloned()))
}

/// Cleans up after a shim that died; what became of the task goes to standard output.
fn delete(words: &Words) -> Result<()> {
    task::runtime(state_directory(&words.namespace)?, false).delete(&words.id, true)?;
    let response = DeleteResponse { pid: 0, exit_status: KILLED, exited_at: Some(corten_types::time::now().into()) };
    write_all(std::io::stdout().as_fd(), &response.encode_to_vec()).call(|| "write(1)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let args = ["-namespace", "k8s.io", "--id=a", "-debug", "-bundle", "/b", "-publish-binary", "c", "start"];
        let words = parse(&args.map(OsString::from)).unwrap();
        assert_eq!((words.namespace.as_str(), words.id.as_str(), words.action.as_str()), ("k8s.io", "a", "start"));
        assert_eq!(words.bundle, Path::new("/b"));
        assert!(parse(&["-unknown", "x"].map(OsString::from)).is_err());
        assert!(parse(&["-id"].map(OsString::from)).is_err());
    }
}
