//! Command lines and what the engine is asked for.

use corten_engine::{CreateRequest, ImageSource, MountSource, NetworkMode, Seccomp};
use corten_types::ErrorKind;

use super::*;
use crate::command_line::{Stop, find, parse};

fn caller() -> Environment {
    Environment {
        variables: vec![("TERM".into(), "xterm".into())],
        working_directory: "/here".into(),
        ..Environment::default()
    }
}

fn request(line: &str) -> Result<CreateRequest> {
    request_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
}

fn request_of(words: &[String]) -> Result<CreateRequest> {
    let words: Vec<String> = std::iter::once("run".to_owned()).chain(words.iter().cloned()).collect();
    let (command, count) = find(&words).unwrap();
    match parse(command, &words[count..]) {
        Ok(parsed) => create_request(&parsed, &caller()),
        Err(Stop::Wrong(error)) => Err(error),
        Err(Stop::Help) => panic!("help was asked for"),
    }
}

fn refusal(line: &str) -> String {
    request(line).expect_err(line).message().to_owned()
}

#[test]
fn nothing_asked_is_docker_s_default() {
    let asked = request("busybox").unwrap();
    let default = CreateRequest::new(ImageSource::Reference("busybox".to_owned()), "busybox");
    assert_eq!(format!("{asked:?}"), format!("{default:?}"));
}

#[test]
fn each_flag_reaches_its_field() {
    let words = [
        "--name",
        "web",
        "-e",
        "A=b",
        "-e",
        "TERM",
        "-e",
        "GONE",
        "-w",
        "/srv",
        "-u",
        "1:2",
        "-h",
        "box",
        "--entrypoint",
        "sh",
        "--read-only",
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop=ALL",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=profile.json",
        "--device",
        "/dev/fuse",
        "--ulimit",
        "nofile=5:6",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--init",
        "-m",
        "512m",
        "--memory-swap",
        "-1",
        "--cpus",
        "1.5",
        "--pids-limit",
        "10",
        "--network",
        "host",
        "-l",
        "a=b",
        "--label",
        "c",
        "--stop-signal",
        "INT",
        "-v",
        "/a:/b",
        "--tmpfs",
        "/t",
        "--mount",
        "type=bind,src=/c,dst=/d",
        "--shm-size",
        "1g",
        "--oom-score-adj",
        "5",
        "--group-add",
        "video",
        "-it",
        "--rm",
        "image:1",
        "sh",
        "-c",
        "true",
    ];
    let asked = request_of(&words.map(str::to_owned)).unwrap();
    assert_eq!(asked.source, ImageSource::Reference("image:1".to_owned()));
    assert_eq!(asked.image_name, "image:1");
    assert_eq!(asked.command, ["sh", "-c", "true"]);
    assert_eq!(asked.name.as_deref(), Some("web"));
    assert_eq!(asked.env, ["A=b", "TERM=xterm", "GONE"]);
    assert_eq!(asked.workdir.as_deref(), Some("/srv"));
    assert_eq!(asked.user.as_deref(), Some("1:2"));
    assert_eq!(asked.hostname.as_deref(), Some("box"));
    assert_eq!(asked.entrypoint, Some(vec!["sh".to_owned()]));
    assert_eq!(asked.capabilities_add, ["NET_ADMIN"]);
    assert_eq!(asked.capabilities_drop, ["ALL"]);
    assert!(asked.security.no_new_privileges);
    assert_eq!(asked.security.seccomp, Seccomp::File("/here/profile.json".into()));
    assert_eq!(asked.devices[0].container, "/dev/fuse");
    assert_eq!((asked.ulimits[0].soft, asked.ulimits[0].hard), (5, 6));
    assert_eq!(asked.sysctls["net.ipv4.ip_forward"], "1");
    assert_eq!(asked.resources.memory_bytes, Some(512 << 20));
    assert_eq!(asked.resources.memory_swap_bytes, Some(-1));
    assert_eq!(asked.resources.nano_cpus, Some(1_500_000_000));
    assert_eq!(asked.resources.pids_limit, Some(10));
    assert_eq!(asked.network, NetworkMode::Host);
    assert_eq!((asked.labels["a"].as_str(), asked.labels["c"].as_str()), ("b", ""));
    assert_eq!(asked.stop_signal.as_deref(), Some("INT"));
    let destinations: Vec<_> = asked.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(destinations, ["/b", "/d", "/t"]);
    assert_eq!(asked.shm_size_bytes, Some(1 << 30));
    assert_eq!(asked.oom_score_adj, Some(5));
    assert_eq!(asked.groups_add, ["video"]);
    assert!(asked.read_only && asked.init && asked.terminal && asked.open_stdin && asked.remove_on_exit);
}

#[test]
fn the_image_s_word_has_five_forms() {
    for (line, source, name) in [
        ("hello", ImageSource::Hello, "hello"),
        ("host bash", ImageSource::Host, "host"),
        ("oci:./dir:tag", ImageSource::OciLayout("/here/./dir".into(), Some("tag".to_owned())), "oci:./dir:tag"),
        ("docker-archive:a.tar", ImageSource::DockerArchive("/here/a.tar".into(), None), "docker-archive:a.tar"),
        ("--rootfs root sh", ImageSource::Rootfs("/here/root".into()), ""),
        ("--rootfs /root sh", ImageSource::Rootfs("/root".into()), ""),
        ("reg.example/a/b@sha256:0123", ImageSource::Hello, "!"),
    ] {
        match request(line) {
            Ok(asked) => assert_eq!((asked.source, asked.image_name.as_str()), (source, name), "{line}"),
            Err(error) => assert_eq!((name, error.message()), ("!", "invalid reference format"), "{line}"),
        }
    }
    assert_eq!(refusal("UPPER true"), "invalid reference format");
    assert!(request(&"0a".repeat(32)).is_ok());
}

#[test]
fn an_empty_entry_point_removes_the_image_s() {
    let words = ["--entrypoint", "", "--name", "", "i", "x"].map(str::to_owned);
    let asked = request_of(&words).unwrap();
    assert_eq!((asked.entrypoint, asked.name), (Some(Vec::new()), None));
}

#[test]
fn zero_is_no_limit() {
    let asked = request("-m 0 --memory-swap 0 --cpus 0 --pids-limit 0 i").unwrap();
    assert!(asked.resources.is_empty());
    assert_eq!(request("--pids-limit -1 i").unwrap().resources.pids_limit, Some(-1));
}

#[test]
fn wrong_values_are_refused_in_docker_s_words() {
    for (line, message) in [
        ("-m 5x i", "invalid argument \"5x\" for \"-m, --memory\" flag: invalid suffix: 'x'"),
        ("--ulimit foo i", "invalid argument \"foo\" for \"--ulimit\" flag: invalid ulimit argument: foo"),
        ("-e =x i", "invalid argument \"=x\" for \"-e, --env\" flag: invalid environment variable: =x"),
        ("-l =x i", "invalid argument \"=x\" for \"-l, --label\" flag: invalid label '=x': empty name"),
        ("--cpus abc i", "invalid argument \"abc\" for \"--cpus\" flag: failed to parse abc as a rational number"),
        (
            "--sysctl kernel.panic=1 i",
            "invalid argument \"kernel.panic=1\" for \"--sysctl\" flag: sysctl 'kernel.panic=1' is not allowed",
        ),
        (
            "--pids-limit x i",
            "invalid argument \"x\" for \"--pids-limit\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        ("--mount type=bind i", "invalid argument \"type=bind\" for \"--mount\" flag: target is required"),
        ("--stop-signal FOO i", "invalid signal: FOO"),
        ("-w rel i", "the working directory 'rel' is invalid, it needs to be an absolute path"),
        ("--pull sometimes i", "invalid pull option: 'sometimes': must be one of \"always\", \"missing\" or \"never\""),
        ("-v /a:/b -v /c:/b/ i", "Duplicate mount point: /b/"),
        ("--network none --network host i", "conflicting options: `--network` is given twice with different values"),
    ] {
        assert_eq!(refusal(line), message, "{line}");
    }
    for (line, part) in [
        ("--network bridge i", "network `bridge` is not supported yet"),
        ("--platform plan9/mips host", "platform `plan9/mips` cannot run here"),
        ("-p 80 i", "the flag `--publish` is not supported yet"),
    ] {
        let error = request(line).expect_err(line);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{line}");
        assert!(error.message().starts_with(part), "{line}: {error}");
        assert!(!error.hints().is_empty(), "{line}");
    }
    assert!(refusal("--env-file /no/such i").contains("/no/such"));
}

#[test]
fn a_relative_bind_starts_at_the_working_directory() {
    let asked = request("-v ./a:/b i").unwrap();
    let MountSource::Bind { path, create, .. } = &asked.mounts[0].source else { panic!("a bind") };
    assert_eq!((path.to_str(), *create), (Some("/here/./a"), true));
}

proptest::proptest! {
    #[test]
    fn any_words_are_read_or_refused(words in proptest::collection::vec("(-[a-zA-Z=]{0,4}|--[a-z-]{0,12}=?|[ -~]{0,12})", 1..8)) {
        let _outcome = request_or_help(&words);
    }

    #[test]
    fn any_value_of_a_structured_flag_is_read_or_refused(value in "[ -~]{0,24}") {
        for flag in ["mount", "volume", "tmpfs", "ulimit", "device", "memory", "cpus", "sysctl", "env", "label", "security-opt"] {
            let _outcome = request_or_help(&[format!("--{flag}={value}"), "i".to_owned()]);
        }
    }
}

fn request_or_help(words: &[String]) -> Option<Result<CreateRequest>> {
    let words: Vec<String> = std::iter::once("run".to_owned()).chain(words.iter().cloned()).collect();
    let (command, count) = find(&words)?;
    match parse(command, &words[count..]) {
        Ok(parsed) => Some(create_request(&parsed, &caller())),
        Err(_) => None,
    }
}
