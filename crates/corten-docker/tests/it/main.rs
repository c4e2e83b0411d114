//! What docker's own command line prints, and what ours makes of the same.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod inspect;
mod lists;
mod templates;

use corten_engine::store::Image;
use corten_engine::{
    Container, ContainerConfig, Given, Life, Mount, MountSource, Recursion, State, TmpfsOptions, Ulimit,
};
use corten_types::image_spec::ImageConfig;
use corten_types::{Digest, Reference};
use jiff::Timestamp;

/// The id of the first container in every text below.
const ID: &str = "0f8cf455ab848d0d0601cdfe0144f6ec0fa4fca6edf0c8169bf9c6bba5d0cbd0";
const IMAGE_ID: &str = "sha256:f58489862759c84d80ec439812c2d7c5d59deb5ee15a2d98e78964ec37a8c751";

fn now() -> Timestamp {
    "2026-11-21T10:46:34.2Z".parse().unwrap()
}

/// What `docker run --name capt1 -e FOO=bar -l a=b -v /tmp:/mnt:ro --tmpfs /x:size=64m -m 100m --cpus 1.5 --pids-limit 10
/// --ulimit nofile=100:200 --cap-add NET_ADMIN --sysctl net.ipv4.ip_forward=1 --network none -w /root -h hostx
/// localhost/busybox sh -c 'echo hi; exit 3'` made.
fn exited() -> Container {
    let bind = MountSource::Bind {
        path: "/tmp".into(),
        create: true,
        propagation: None,
        recursion: Recursion::Enabled,
        relabel: None,
    };
    let memory = MountSource::Tmpfs(TmpfsOptions { size_bytes: Some(64 << 20), ..TmpfsOptions::default() });
    let mut config = ContainerConfig {
        id: ID.to_owned(),
        name: "capt1".to_owned(),
        created: "2026-11-21T10:46:32.491596868Z".to_owned(),
        image: "localhost/busybox".to_owned(),
        image_id: IMAGE_ID.to_owned(),
        command: ["sh", "-c", "echo hi; exit 3"].map(str::to_owned).to_vec(),
        env: ["FOO=bar", "PATH=/bin:/usr/bin:/sbin:/usr/sbin"].map(str::to_owned).to_vec(),
        workdir: "/root".to_owned(),
        hostname: "hostx".to_owned(),
        mounts: vec![
            Mount { source: bind, destination: "/mnt".to_owned(), read_only: true, given: Given::Volume },
            Mount {
                source: memory,
                destination: "/x".to_owned(),
                read_only: false,
                given: Given::Tmpfs("size=64m".to_owned()),
            },
        ],
        capabilities_add: vec!["NET_ADMIN".to_owned()],
        ulimits: vec![Ulimit { name: "nofile".to_owned(), soft: 100, hard: 200 }],
        sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        shm_size_bytes: 64 << 20,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..ContainerConfig::default()
    };
    config.resources.memory_bytes = Some(100 << 20);
    config.resources.memory_swap_bytes = Some(200 << 20);
    config.resources.nano_cpus = Some(1_500_000_000);
    config.resources.pids_limit = Some(10);
    let life = Life {
        state: State::Exited,
        exit_code: 3,
        started_at: "2026-11-21T10:46:32.600164746Z".to_owned(),
        finished_at: "2026-11-21T10:46:32.703490995Z".to_owned(),
        ..Life::default()
    };
    Container { config, life, directory: "/var/lib/c".into(), log_path: "/var/lib/c/json.log".into() }
}

/// What `docker run -d --name capt2 --network none localhost/busybox sleep 1000` made.
fn running() -> Container {
    let config = ContainerConfig {
        id: "1177d430a785fdedbdee1b546252ef8f186e44f58597e7903d22e06df7faf9bf".to_owned(),
        name: "capt2".to_owned(),
        created: "2026-11-21T10:46:32.793949082Z".to_owned(),
        image: "localhost/busybox".to_owned(),
        image_id: IMAGE_ID.to_owned(),
        command: ["sleep", "1000"].map(str::to_owned).to_vec(),
        ..ContainerConfig::default()
    };
    let life = Life {
        state: State::Running,
        pid: 3621,
        started_at: "2026-11-21T10:46:32.818633619Z".to_owned(),
        ..Life::default()
    };
    Container { config, life, directory: "/var/lib/c".into(), log_path: "/var/lib/c/json.log".into() }
}

fn image(name: Option<&str>, id: &str, created: &str, size: u64) -> Image {
    let id = Digest::parse(id).unwrap();
    let config = format!(
        r#"{{"created":"{created}","architecture":"amd64","os":"linux",
            "config":{{"Cmd":["/bin/sh"],"Env":["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]}},
            "rootfs":{{"type":"layers",
                "diff_ids":["sha256:9c2a1e4338eb9096cb4510d7d7d2d2c2b99c879831cb04298079a5d495ce830e"]}}}}"#
    );
    Image {
        manifest: id,
        target: id,
        id,
        media_type: String::new(),
        config: ImageConfig::parse(config.as_bytes()).unwrap(),
        layers: Vec::new(),
        size,
        added_ns: 0,
        repo_tags: name.map(|name| Reference::parse(name).unwrap()).into_iter().collect(),
        repo_digests: Vec::new(),
    }
}

fn images() -> Vec<Image> {
    let big = "sha256:5309aff72f0e767b096c383fac532b577bbea5514dd8e51432d58945e52b9a04";
    vec![
        image(Some("localhost/big"), big, "2026-11-21T10:12:17.1Z", 609_470_464),
        image(Some("localhost/busybox"), IMAGE_ID, "2026-11-21T10:11:50.383679895Z", 1_982_354),
    ]
}
