//! The messages of containerd's task service and of its events, as far as they are used; versions 2 and 3 agree in these.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

impl From<(i64, u32)> for Timestamp {
    fn from((seconds, nanos): (i64, u32)) -> Self {
        Self { seconds, nanos: i32::try_from(nanos).unwrap_or(0) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Mount {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) source: String,
    #[prost(string, tag = "3")]
    pub(super) target: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) options: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) bundle: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) rootfs: Vec<Mount>,
    #[prost(bool, tag = "4")]
    pub(super) terminal: bool,
    #[prost(string, tag = "5")]
    pub(super) stdin: String,
    #[prost(string, tag = "6")]
    pub(super) stdout: String,
    #[prost(string, tag = "7")]
    pub(super) stderr: String,
    #[prost(string, tag = "8")]
    pub(super) checkpoint: String,
    #[prost(message, optional, tag = "10")]
    pub(super) options: Option<Any>,
}

/// runc's options of a container (`containerd.runc.v1.Options`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct RuncOptions {
    #[prost(bool, tag = "1")]
    pub(super) no_pivot_root: bool,
    #[prost(bool, tag = "2")]
    pub(super) no_new_keyring: bool,
    #[prost(string, tag = "7")]
    pub(super) root: String,
    #[prost(bool, tag = "9")]
    pub(super) systemd_cgroup: bool,
}

/// The process id that `Create` and `Start` answer with.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PidResponse {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
}

/// A task or, with `exec_id`, one of its further processes: `State`, `Delete`, `Start`, `Wait`, `Pause`, `Resume`, `Pids`,
/// `Stats` and `Connect` ask no more.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Which {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteResponse {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
    #[prost(uint32, tag = "2")]
    pub(super) exit_status: u32,
    #[prost(message, optional, tag = "3")]
    pub(super) exited_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExecRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
    #[prost(bool, tag = "3")]
    pub(super) terminal: bool,
    #[prost(string, tag = "4")]
    pub(super) stdin: String,
    #[prost(string, tag = "5")]
    pub(super) stdout: String,
    #[prost(string, tag = "6")]
    pub(super) stderr: String,
    #[prost(message, optional, tag = "7")]
    pub(super) spec: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResizeRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
    #[prost(uint32, tag = "3")]
    pub(super) width: u32,
    #[prost(uint32, tag = "4")]
    pub(super) height: u32,
}

/// Where a process is in its life (`containerd.v1.types.Status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created = 1,
    Running = 2,
    Stopped = 3,
    Paused = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StateResponse {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) bundle: String,
    #[prost(uint32, tag = "3")]
    pub(super) pid: u32,
    #[prost(int32, tag = "4")]
    pub(super) status: i32,
    #[prost(string, tag = "5")]
    pub(super) stdin: String,
    #[prost(string, tag = "6")]
    pub(super) stdout: String,
    #[prost(string, tag = "7")]
    pub(super) stderr: String,
    #[prost(bool, tag = "8")]
    pub(super) terminal: bool,
    #[prost(uint32, tag = "9")]
    pub(super) exit_status: u32,
    #[prost(message, optional, tag = "10")]
    pub(super) exited_at: Option<Timestamp>,
    #[prost(string, tag = "11")]
    pub(super) exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KillRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
    #[prost(uint32, tag = "3")]
    pub(super) signal: u32,
    #[prost(bool, tag = "4")]
    pub(super) all: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CloseRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
    #[prost(bool, tag = "3")]
    pub(super) stdin: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PidsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) processes: Vec<PidResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resources: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WaitResponse {
    #[prost(uint32, tag = "1")]
    pub(super) exit_status: u32,
    #[prost(message, optional, tag = "2")]
    pub(super) exited_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatsResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) stats: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ConnectResponse {
    #[prost(uint32, tag = "1")]
    pub(super) shim_pid: u32,
    #[prost(uint32, tag = "2")]
    pub(super) task_pid: u32,
    #[prost(string, tag = "3")]
    pub(super) version: String,
}

/// `containerd.events.TaskCreate`
#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskCreate {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "2")]
    pub(super) bundle: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) rootfs: Vec<Mount>,
    #[prost(message, optional, tag = "4")]
    pub(super) io: Option<TaskIo>,
    #[prost(uint32, tag = "6")]
    pub(super) pid: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskIo {
    #[prost(string, tag = "1")]
    pub(super) stdin: String,
    #[prost(string, tag = "2")]
    pub(super) stdout: String,
    #[prost(string, tag = "3")]
    pub(super) stderr: String,
    #[prost(bool, tag = "4")]
    pub(super) terminal: bool,
}

/// `TaskStart`, and the container alone of `TaskPaused`, `TaskResumed` and `TaskOOM`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskStart {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(uint32, tag = "2")]
    pub(super) pid: u32,
}

/// `TaskExecAdded`, and with a pid `TaskExecStarted`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskExec {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
    #[prost(uint32, tag = "3")]
    pub(super) pid: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskDelete {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(uint32, tag = "2")]
    pub(super) pid: u32,
    #[prost(uint32, tag = "3")]
    pub(super) exit_status: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) exited_at: Option<Timestamp>,
    #[prost(string, tag = "5")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskExit {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "2")]
    pub(super) id: String,
    #[prost(uint32, tag = "3")]
    pub(super) pid: u32,
    #[prost(uint32, tag = "4")]
    pub(super) exit_status: u32,
    #[prost(message, optional, tag = "5")]
    pub(super) exited_at: Option<Timestamp>,
}

/// `containerd.services.events.ttrpc.v1.ForwardRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct ForwardRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) envelope: Option<Envelope>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(message, optional, tag = "1")]
    pub(super) timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) topic: String,
    #[prost(message, optional, tag = "4")]
    pub(super) event: Option<Any>,
}
