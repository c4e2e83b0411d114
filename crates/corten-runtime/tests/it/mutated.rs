//! The promises of the fuzz targets (`fuzz/bodies`), held against mutated documents.

#[path = "../../../../fuzz/bodies/config_json.rs"]
mod config_json;
#[path = "../../../../fuzz/bodies/seccomp_profile.rs"]
mod seccomp_profile;

use corten_testkit::{bundle, mutate};

const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
    "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64"],
    "flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[
    {"names":["read","write","openat","mmap","clone3"],"action":"SCMP_ACT_ALLOW"},
    {"names":["clone","personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
    {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"},{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_LE"}]},
    {"names":["ptrace"],"action":"SCMP_ACT_TRACE","errnoRet":7},{"names":["bpf"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;

#[test]
fn mutated_configurations_are_documents_or_errors_in_words() {
    let plain = serde_json::to_vec(&bundle::default_spec()).unwrap();
    let full = format!(
        r#"{{"ociVersion":"1.3.0","process":{{"cwd":"/","args":["x"],"user":{{"uid":1,"additionalGids":[2]}},
        "scheduler":{{"policy":"SCHED_FIFO","priority":9}},"ioPriority":{{"class":"IOPRIO_CLASS_BE","priority":7}}}},
        "hooks":{{"prestart":[{{"path":"/h","args":["h"],"timeout":3}}]}},"annotations":{{"a":"b"}},
        "linux":{{"uidMappings":[{{"containerID":0,"hostID":1,"size":2}}],"sysctl":{{"net.a":"1"}},
        "timeOffsets":{{"monotonic":{{"secs":-1,"nanosecs":2}}}},"intelRdt":{{"closID":"x"}},
        "resources":{{"memory":{{"limit":-1}},"cpu":{{"shares":2,"cpus":"0-1"}},"pids":{{"limit":9}},
        "blockIO":{{"weightDevice":[{{"major":8,"minor":0,"weight":10}}]}},"unified":{{"memory.high":"1"}},
        "rdma":{{"mlx":{{"hcaHandles":1}}}},"hugepageLimits":[{{"pageSize":"2MB","limit":1}}]}},
        "devices":[{{"path":"/dev/x","type":"c","major":1,"minor":3}}],"seccomp":{PROFILE}}}}}"#
    );
    config_json::check(full.as_bytes());
    mutate::each(&[&plain, full.as_bytes()], 1500, config_json::check);
}

#[test]
fn mutated_profiles_are_programs_that_the_kernel_takes_or_errors_that_name_the_field() {
    mutate::each(&[PROFILE.as_bytes(), br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#], 1500, seccomp_profile::check);
}
