//! The OCI runtime: a bundle becomes a process, and the process's life is followed to its end.
//!
//! ```text
//! runtime.rs     the operations: create, start, state, kill, delete, exec, pause, update, …
//! record.rs      what is on disk of a container, and its lock
//! launch/        from a checked plan to a running process
//! process/       user, capabilities, limits of the program
//! rootfs/        mounts, devices, masks
//! cgroup/        control groups, v1 and v2
//! seccomp/       system call filters
//! notify.rs      readiness of the program, for a service manager
//! checkpoint/    saving and restoring by criu
//! features.rs    what is implemented, as data
//! ```

pub mod cgroup;
mod channel;
pub mod checkpoint;
pub mod features;
mod hooks;
mod idmap;
mod launch;
mod namespaces;
mod net_device;
pub mod notify;
mod owner;
mod process;
mod procfs;
pub mod rdt;
mod record;
pub mod rootfs;
pub mod runtime;
pub mod seccomp;
mod sysctl;
mod terminal;
mod time;
