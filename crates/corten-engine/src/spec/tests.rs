//! Requests and the runtime documents they become.

use std::path::{Path, PathBuf};

use corten_types::runtime_spec::{Mount as SpecMount, NamespaceKind, Spec};

use super::*;
use crate::request::{Access, DeviceRequest, Given, Mount, MountSource, Propagation, Recursion, TmpfsOptions};
use crate::resources::Resources;

fn config() -> ContainerConfig {
    ContainerConfig {
        id: "ab".repeat(32),
        command: vec!["sh".to_owned()],
        hostname: "abababababab".to_owned(),
        shm_size_bytes: 64 << 20,
        cgroups_path: "/corten/x".to_owned(),
        ..ContainerConfig::default()
    }
}

fn around() -> Surroundings {
    Surroundings {
        directory: PathBuf::from("/state"),
        executable: PathBuf::from("/usr/bin/corten"),
        rootless: false,
        many_ids: false,
        kernel: (6, 18),
        capabilities: (1 << 41) - 1,
        masked_paths: vec!["/proc/kcore".to_owned()],
        cgroup2: false,
        devices: HostDevices::default(),
        cdi: cdi::Edits::default(),
        joined: Joined::default(),
        seccomp_profile: None,
        terminal_size: None,
    }
}

fn spec(config: &ContainerConfig) -> Spec {
    build(config, &around()).unwrap()
}

fn at<'a>(spec: &'a Spec, destination: &str) -> &'a SpecMount {
    spec.mounts.iter().find(|mount| mount.destination == destination).unwrap()
}

fn refused(config: &ContainerConfig) -> String {
    build(config, &around()).unwrap_err().one_line()
}

fn bind(destination: &str) -> Mount {
    Mount {
        source: MountSource::Bind {
            path: PathBuf::from("/src"),
            create: true,
            propagation: None,
            recursion: Recursion::Enabled,
            relabel: None,
        },
        destination: destination.to_owned(),
        read_only: false,
        given: Given::Volume,
    }
}

#[test]
fn an_ordinary_container_is_dockers() {
    let spec = spec(&config());
    let process = spec.process.as_ref().unwrap();
    assert_eq!(
        process.env,
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=abababababab"]
    );
    let sets = process.capabilities.as_ref().unwrap();
    assert_eq!((sets.bounding.len(), &sets.bounding, &sets.effective), (14, &sets.permitted, &sets.permitted));
    assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
    assert!(!process.no_new_privileges && process.cwd == "/");
    let places: Vec<&str> = spec.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(
        places,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/dev/shm",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/etc/hosts"
        ]
    );
    assert!(at(&spec, "/sys").options.contains(&"ro".to_owned()));
    assert!(at(&spec, "/sys/fs/cgroup").options.contains(&"ro".to_owned()));
    assert!(at(&spec, "/dev/shm").options.contains(&"size=67108864".to_owned()));
    let linux = spec.linux.as_ref().unwrap();
    let kinds: Vec<NamespaceKind> = linux.namespaces.iter().map(|namespace| namespace.kind).collect();
    use NamespaceKind::*;
    assert_eq!(kinds, [Mount, Network, Uts, Pid, Ipc]);
    assert_eq!((linux.masked_paths.len(), linux.readonly_paths.len()), (1, 5));
    assert_eq!(linux.seccomp.as_ref().unwrap().default_action, "SCMP_ACT_ERRNO");
    let resources = linux.resources.as_ref().unwrap();
    assert!(!resources.devices[0].allow && resources.devices[0].kind.is_empty(), "no rule would mean every device");
    assert!(resources.memory.is_none() && resources.cpu.is_none() && resources.pids.is_none());
    assert_eq!(linux.sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
}

#[test]
fn a_privileged_container_has_no_masks() {
    let spec = spec(&ContainerConfig { privileged: true, ..config() });
    let linux = spec.linux.as_ref().unwrap();
    assert!(linux.masked_paths.is_empty() && linux.readonly_paths.is_empty() && linux.seccomp.is_none());
    assert_eq!(spec.process.as_ref().unwrap().capabilities.as_ref().unwrap().bounding.len(), 41);
    assert!(!at(&spec, "/sys").options.contains(&"ro".to_owned()));
}

#[test]
fn variables_are_replaced_in_place_and_removed() {
    let env = ["A=1", "PATH=/x", "HOSTNAME", "A=2", "B=", "TERM=vt100"].map(str::to_owned).to_vec();
    let spec = spec(&ContainerConfig { env, terminal: true, ..config() });
    assert_eq!(spec.process.unwrap().env, ["PATH=/x", "TERM=vt100", "A=2", "B="]);
}

#[test]
fn the_users_mounts_replace_the_defaults_and_lie_outer_before_inner() {
    let tmpfs = Mount {
        source: MountSource::Tmpfs(TmpfsOptions {
            size_bytes: Some(1024),
            mode: Some(0o700),
            options: vec!["exec".to_owned(), "size=5".to_owned()],
        }),
        destination: "/dev/shm".to_owned(),
        read_only: false,
        given: Given::Volume,
    };
    let mut inner = bind("/a/b/../c/");
    inner.read_only = true;
    let mounts = vec![inner, bind("/a"), tmpfs, bind("/etc/hosts")];
    let spec = spec(&ContainerConfig { mounts, ..config() });
    assert_eq!(at(&spec, "/dev/shm").options, ["nosuid", "nodev", "exec", "size=1024", "mode=700"]);
    assert_eq!(at(&spec, "/a/c").options, ["rbind", "rprivate", "ro", "rro"]);
    assert_eq!(spec.mounts.iter().filter(|mount| mount.destination == "/etc/hosts").count(), 1);
    let place = |name: &str| spec.mounts.iter().position(|mount| mount.destination == name).unwrap();
    assert!(place("/a") < place("/a/c"));
}

#[test]
fn propagation_and_recursion_are_the_users_choice() {
    let mut mount = bind("/a");
    if let MountSource::Bind { propagation, recursion, .. } = &mut mount.source {
        (*propagation, *recursion) = (Some(Propagation::Rslave), Recursion::Disabled);
    }
    let spec = spec(&ContainerConfig { mounts: vec![mount], ..config() });
    assert_eq!(at(&spec, "/a").options, ["bind", "rslave"]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mounts = |mounts| ContainerConfig { mounts, ..config() };
    assert!(refused(&mounts(vec![bind("/a"), bind("/a/")])).contains("duplicate mount point"));
    assert!(refused(&mounts(vec![bind("a")])).contains("not an absolute path"));
    assert!(refused(&mounts(vec![bind("/..")])).contains("cannot be `/`"));
    let volume = |name: Option<&str>| {
        let source = MountSource::Volume(name.map(str::to_owned));
        mounts(vec![Mount { source, destination: "/v".to_owned(), read_only: false, given: Given::Volume }])
    };
    assert!(refused(&volume(Some("data"))).contains("volume `data` is not supported yet: it comes with volumes"));
    let ulimit = |name: &str, soft, hard| ContainerConfig {
        ulimits: vec![Ulimit { name: name.to_owned(), soft, hard }],
        ..config()
    };
    assert!(refused(&ulimit("files", 1, 2)).contains("invalid ulimit `files`"));
    assert!(refused(&ulimit("nofile", 3, 2)).contains("above the hard limit"));
    assert!(refused(&ulimit("nofile", -2, 2)).contains("below zero"));
    let spec = spec(&ulimit("nofile", 5, -1));
    let limit = &spec.process.unwrap().rlimits[0];
    assert_eq!((limit.kind.as_str(), limit.soft, limit.hard), ("RLIMIT_NOFILE", 5, u64::MAX));
}

#[test]
fn only_a_containers_own_parameters_can_be_set() {
    let set = |name: &str, network: NetworkMode| {
        check_sysctl(name, "1", &network, &NamespaceMode::Default).map_err(|error| error.one_line())
    };
    for name in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "net/ipv4/conf/eth0.1/forwarding"] {
        assert!(set(name, NetworkMode::None).is_ok(), "{name}");
    }
    for name in ["kernel.core_pattern", "vm.swappiness", "kernel.msgmax2", "fs.file-max", "kernel.hostname"] {
        assert!(set(name, NetworkMode::None).unwrap_err().contains("would change the host"), "{name}");
    }
    for name in ["kernel.shm_rmid_forced+kernel.core_pattern", "net.ipv4..ip_forward", "net.a\nb", "", "net./../x"] {
        assert!(set(name, NetworkMode::None).unwrap_err().contains("invalid sysctl"), "{name:?}");
    }
    assert!(set("net.ipv4.ip_forward", NetworkMode::Host).unwrap_err().contains("shares the host's network"));
    let shared = check_sysctl("kernel.shmmax", "1", &NetworkMode::None, &NamespaceMode::Host).unwrap_err();
    assert!(shared.one_line().contains("IPC namespace is not its own"));
}

#[test]
fn limits_get_dockers_defaults_and_checks() {
    let limits = |resources: Resources| resources.checked(2, false).map_err(|error| error.one_line());
    let memory = |bytes, swap| Resources { memory_bytes: bytes, memory_swap_bytes: swap, ..Resources::default() };
    assert_eq!(limits(memory(Some(64 << 20), None)).unwrap().memory_swap_bytes, Some(128 << 20));
    assert_eq!(limits(memory(Some(64 << 20), Some(-1))).unwrap().memory_swap_bytes, Some(-1));
    assert!(limits(memory(Some(5 << 20), None)).unwrap_err().contains("too small"));
    assert!(limits(memory(Some(64 << 20), Some(32 << 20))).unwrap_err().contains("below the limit of memory"));
    assert!(limits(memory(None, Some(32 << 20))).unwrap_err().contains("needs a limit of memory"));
    let cpus = |nano| Resources { nano_cpus: Some(nano), ..Resources::default() };
    assert!(limits(cpus(3_000_000_000)).unwrap_err().contains("only 2 CPUs"));
    let resources = limits(cpus(1_500_000_000)).unwrap();
    let spec = spec(&ContainerConfig { resources, ..config() });
    let cpu = spec.linux.unwrap().resources.unwrap().cpu.unwrap();
    assert_eq!((cpu.quota, cpu.period), (Some(150_000), Some(100_000)));
}

#[test]
fn namespaces_are_its_own_the_hosts_or_anothers() {
    let mut shared = config();
    shared.namespaces.ipc = NamespaceMode::Container("x".to_owned());
    shared.namespaces.pid = NamespaceMode::Host;
    shared.namespaces.uts = NamespaceMode::Host;
    let joined = Joined { ipc: "/proc/7/ns/ipc".to_owned(), shared_memory: Some("/shm".into()), ..Joined::default() };
    let built = build(&shared, &Surroundings { joined, ..around() }).unwrap();
    let namespaces = &built.linux.as_ref().unwrap().namespaces;
    let kinds: Vec<_> = namespaces.iter().map(|one| (one.kind, one.path.as_str())).collect();
    use NamespaceKind::*;
    assert_eq!(kinds, [(Mount, ""), (Network, ""), (Ipc, "/proc/7/ns/ipc")]);
    assert!(built.hostname.is_empty(), "the host's name is not the container's to set");
    assert_eq!((at(&built, "/dev/shm").kind.as_str(), at(&built, "/dev/shm").source.as_str()), ("bind", "/shm"));
    let mut none = config();
    none.namespaces.ipc = NamespaceMode::None;
    assert!(spec(&none).mounts.iter().all(|mount| mount.destination != "/dev/shm"));
}

#[test]
fn mounts_below_a_read_only_bind_are_writable_only_where_that_was_asked() {
    let of = |choice: Recursion| {
        let mut mount = bind("/a");
        mount.read_only = true;
        if let MountSource::Bind { recursion, .. } = &mut mount.source {
            *recursion = choice;
        }
        at(&spec(&ContainerConfig { mounts: vec![mount], ..config() }), "/a").options.join(",")
    };
    assert_eq!(of(Recursion::Enabled), "rbind,rprivate,ro,rro");
    assert_eq!(of(Recursion::Readonly), "rbind,rprivate,ro,rro");
    assert_eq!(of(Recursion::Writable), "rbind,rprivate,ro");
    assert_eq!(of(Recursion::Disabled), "bind,rprivate,ro");
}

#[test]
fn networks_decide_namespaces_and_sysfs() {
    let config = ContainerConfig { network: NetworkMode::Host, ..config() };
    let has_network = |spec: &Spec| {
        spec.linux.as_ref().unwrap().namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Network)
    };
    assert!(!has_network(&spec(&config)));
    assert!(spec(&config).linux.unwrap().sysctl.is_empty());
    let rootless = build(&config, &Surroundings { rootless: true, ..around() }).unwrap();
    assert_eq!(at(&rootless, "/sys").kind, "bind");
    assert!(!at(&rootless, "/dev/pts").options.contains(&"gid=5".to_owned()));
    assert!(rootless.mounts.iter().all(|mount| mount.kind != "cgroup"));
}

#[test]
fn the_small_pid_1_is_the_binary_itself_read_only() {
    let spec = spec(&ContainerConfig { init: true, ..config() });
    assert_eq!(spec.process.as_ref().unwrap().args, ["/sbin/docker-init", "init", "--", "sh"]);
    assert_eq!(at(&spec, INIT).source, "/usr/bin/corten");
    assert!(at(&spec, INIT).options.contains(&"ro".to_owned()));
}

#[test]
fn a_seccomp_profile_of_the_users_is_read_and_a_lost_one_is_an_error() {
    let mut config = config();
    config.security.seccomp = Seccomp::File(PathBuf::from("p.json"));
    assert!(refused(&config).contains("copy of `p.json` is gone"));
    let profile = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let around = Surroundings { seccomp_profile: Some(profile.to_vec()), ..around() };
    let filter = build(&config, &around).unwrap().linux.unwrap().seccomp.unwrap();
    assert_eq!((filter.default_action.as_str(), filter.syscalls.len()), ("SCMP_ACT_ALLOW", 1));
}

#[test]
fn devices_of_the_host_are_made_and_allowed() {
    let request = |host: &str| DeviceRequest {
        host: PathBuf::from(host),
        container: "/dev/xnull".to_owned(),
        access: Access::parse("rw").unwrap(),
    };
    let devices = of_host(&[request("/dev/null")], false).unwrap();
    let node = &devices.nodes[0];
    assert_eq!((node.path.as_str(), node.kind.as_str(), node.major, node.minor), ("/dev/xnull", "c", 1, 3));
    assert_eq!((devices.rules[0].access.as_str(), devices.rules[0].minor), ("rw", Some(3)));
    assert!(of_host(&[request("/etc/passwd")], false).unwrap_err().one_line().contains("not a device node"));
    assert!(of_host(&[request("/dev/not-there")], false).is_err());
    assert!(Path::new("/dev/null").exists());
}
