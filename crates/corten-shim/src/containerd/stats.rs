//! Usage in the form that containerd's clients read: `io.containerd.cgroups.v1.Metrics` or the same of v2.

use corten_runtime::cgroup::Stats;
use prost::Message;

use super::messages::Any;

#[derive(Clone, PartialEq, Message)]
struct MetricsV1 {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<CpuV1>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV1>,
}

#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV1 {
    #[prost(message, optional, tag = "1")]
    usage: Option<CpuUsage>,
    #[prost(message, optional, tag = "2")]
    throttling: Option<Throttle>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuUsage {
    #[prost(uint64, tag = "1")]
    total: u64,
    #[prost(uint64, tag = "2")]
    kernel: u64,
    #[prost(uint64, tag = "3")]
    user: u64,
    #[prost(uint64, repeated, tag = "4")]
    per_cpu: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Throttle {
    #[prost(uint64, tag = "1")]
    periods: u64,
    #[prost(uint64, tag = "2")]
    throttled_periods: u64,
    #[prost(uint64, tag = "3")]
    throttled_time: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV1 {
    #[prost(uint64, tag = "1")]
    cache: u64,
    #[prost(message, optional, tag = "33")]
    usage: Option<Entry>,
    #[prost(message, optional, tag = "34")]
    swap: Option<Entry>,
    #[prost(message, optional, tag = "35")]
    kernel: Option<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
    #[prost(uint64, tag = "3")]
    max: u64,
    #[prost(uint64, tag = "4")]
    failcnt: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricsV2 {
    #[prost(message, optional, tag = "1")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "2")]
    cpu: Option<CpuV2>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV2>,
}

/// Microseconds.
#[derive(Clone, PartialEq, Message)]
struct CpuV2 {
    #[prost(uint64, tag = "1")]
    usage: u64,
    #[prost(uint64, tag = "2")]
    user: u64,
    #[prost(uint64, tag = "3")]
    system: u64,
    #[prost(uint64, tag = "4")]
    periods: u64,
    #[prost(uint64, tag = "5")]
    throttled_periods: u64,
    #[prost(uint64, tag = "6")]
    throttled: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV2 {
    #[prost(uint64, tag = "32")]
    usage: u64,
    #[prost(uint64, tag = "33")]
    limit: u64,
    #[prost(uint64, tag = "34")]
    swap_usage: u64,
    #[prost(uint64, tag = "35")]
    swap_limit: u64,
}

/// The metrics of a container, in the form of the cgroup version that it lives in.
pub(super) fn metrics(stats: &Stats, is_v2: bool) -> Any {
    let pids = Some(Pids { current: stats.pids.current, limit: stats.pids.limit });
    let (usage, throttling) = (&stats.cpu.usage, &stats.cpu.throttling);
    if is_v2 {
        let metrics = MetricsV2 {
            pids,
            cpu: Some(CpuV2 {
                usage: usage.total / 1000,
                user: usage.user / 1000,
                system: usage.kernel / 1000,
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled: throttling.throttled_time / 1000,
            }),
            memory: Some(MemoryV2 {
                usage: stats.memory.usage.usage,
                limit: stats.memory.usage.limit,
                swap_usage: stats.memory.swap.usage,
                swap_limit: stats.memory.swap.limit,
            }),
        };
        return Any { type_url: "io.containerd.cgroups.v2.Metrics".to_owned(), value: metrics.encode_to_vec() };
    }
    let entry = |entry: &corten_runtime::cgroup::MemoryEntry| {
        Some(Entry { limit: entry.limit, usage: entry.usage, max: entry.max, failcnt: entry.failcnt })
    };
    let metrics = MetricsV1 {
        pids,
        cpu: Some(CpuV1 {
            usage: Some(CpuUsage {
                total: usage.total,
                kernel: usage.kernel,
                user: usage.user,
                per_cpu: usage.percpu.clone(),
            }),
            throttling: Some(Throttle {
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled_time: throttling.throttled_time,
            }),
        }),
        memory: Some(MemoryV1 {
            cache: stats.memory.cache,
            usage: entry(&stats.memory.usage),
            swap: entry(&stats.memory.swap),
            kernel: entry(&stats.memory.kernel),
        }),
    };
    Any { type_url: "io.containerd.cgroups.v1.Metrics".to_owned(), value: metrics.encode_to_vec() }
}
