//! Names, documents and programs that mean harm.

use corten_testkit::run::rounds;

use super::*;

#[test]
fn an_id_is_a_plain_name() {
    let sandbox = sandbox();
    let bundle = script(&sandbox, "true");
    let directory = bundle.directory.to_str().unwrap();
    let long = "x".repeat(5000);
    for id in ["", ".", "..", "../x", "a/b", "/etc", "a\nb", "a\u{7}", "a b", "ä", "%2e%2e", &long] {
        for command in ["create", "run"] {
            let refused = sandbox.runtime([command, "-b", directory, id]);
            assert!(refused.code == 1 && refused.stderr.contains("id"), "{}", refused.transcript());
            assert!(refused.stderr.lines().count() < 3, "{}", refused.transcript());
        }
        for command in ["state", "start", "delete"] {
            sandbox.runtime([command, id]).code(1);
        }
        sandbox.runtime(["delete", "--force", id]);
    }
    assert!(bundle.rootfs().join("bin").exists());
}

#[test]
fn a_broken_document_is_one_error_that_names_the_field() {
    let sandbox = sandbox();
    let bundle = script(&sandbox, "true");
    let good = serde_json::to_value(&bundle.spec).unwrap();
    let broken = |pointer: &str, value: Value| {
        let mut document = good.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        document.to_string()
    };
    let cases = [
        (String::new(), "config.json"),
        ("{".into(), "config.json"),
        ("null".into(), "config.json"),
        ("[]".into(), "config.json"),
        (good.to_string()[..200].to_owned(), "config.json"),
        ("[".repeat(100_000), "config.json"),
        (broken("/process/args", serde_json::json!([])), "args"),
        (broken("/process/args", "sh".into()), "process.args"),
        (broken("/process/cwd", "relative".into()), "cwd"),
        (broken("/process/user/uid", (-1).into()), "uid"),
        (broken("/process/user/uid", 4_294_967_296_u64.into()), "uid"),
        (broken("/root/path", "".into()), "root"),
        (broken("/root/path", "no-such-directory".into()), "no-such-directory"),
        (broken("/root", Value::Null), "root"),
        (broken("/linux/namespaces/0/type", "moon".into()), "moon"),
        (broken("/linux/namespaces/1", good["linux"]["namespaces"][0].clone()), "namespace"),
        (broken("/process/rlimits/0/type", "RLIMIT_MOON".into()), "RLIMIT_MOON"),
        (broken("/mounts/0/destination", "".into()), "destination"),
        (broken("/ociVersion", "moon".into()), "ociVersion"),
    ];
    for (document, field) in cases {
        bundle.write_raw(document.as_bytes());
        let refused = run(&sandbox, &bundle);
        let shown: String = document.chars().take(300).collect();
        assert!(
            refused.code == 1 && refused.stderr.contains(field),
            "{shown}\nwanted {field}\n{}",
            refused.transcript()
        );
        assert_eq!(refused.stderr.trim_end().lines().count(), 1, "{}", refused.transcript());
        sandbox.runtime(["state", "c"]).code(1);
    }
}

#[test]
fn the_working_directory_cannot_be_a_leaked_descriptor() {
    let sandbox = sandbox();
    for descriptor in (3..=64).step_by(62_usize.div_ceil(rounds(21))) {
        let mut bundle = script(&sandbox, "cat /proc/self/cwd/etc/shadow; pwd");
        bundle.process().cwd = format!("/proc/self/fd/{descriptor}");
        bundle.write();
        run(&sandbox, &bundle).code(1).prints("");
    }
    start(&sandbox, &sleeper(&sandbox));
    for descriptor in (3..=64).step_by(62_usize.div_ceil(rounds(21))) {
        let cwd = format!("/proc/self/fd/{descriptor}");
        sandbox.runtime(["exec", "--cwd", &cwd, "c", "pwd"]).code(255).prints("");
    }
    delete(&sandbox);
}

#[test]
fn only_the_standard_descriptors_reach_the_program() {
    let sandbox = sandbox();
    let bundle = script(&sandbox, "ls /proc/self/fd; readlink /proc/1/exe /proc/self/exe | grep -c corten");
    // 0, 1, 2 and the one that `ls` itself reads the directory by.
    let open = |runtime: std::process::Command| {
        let mut command = sandbox.command("sh");
        command
            .args(["-c", "exec 5</etc/hostname 9<&5 \"$@\"", "sh"])
            .arg(runtime.get_program())
            .args(runtime.get_args());
        corten_testkit::run::finish(command, None, LIMIT)
    };
    let seen = open(sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]));
    assert_eq!(seen.text().split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "0"], "{}", seen.transcript());
    start(&sandbox, &sleeper(&sandbox));
    let seen = open(sandbox.runtime_command(["exec", "c", "ls", "/proc/self/fd"]));
    assert_eq!(seen.text().split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{}", seen.transcript());
    delete(&sandbox);
}

#[test]
fn the_runtimes_own_binary_cannot_be_written_from_inside() {
    let sandbox = sandbox();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_corten"));
    let before = std::fs::read(binary).unwrap();
    // The entry point is an interpreter script whose interpreter is whatever executes it: the runtime itself.
    let bundle = sandbox.bundle(["/entry"]);
    std::fs::write(bundle.rootfs().join("entry"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(bundle.rootfs().join("entry"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let finished = run(&sandbox, &bundle);
    assert_ne!(finished.code, 0, "{}", finished.transcript());
    assert!(std::fs::read(binary).unwrap() == before, "the binary changed");
}

#[test]
fn a_root_full_of_links_keeps_the_host_untouched() {
    let sandbox = sandbox();
    let canary = sandbox.work().join("canary");
    for name in ["proc", "sys", "dev", "etc", "mnt"] {
        let bundle = {
            let mut bundle = script(&sandbox, "true");
            bundle.mount("/mnt/deep/er", "tmpfs", "tmpfs", &[]);
            bundle.spec.root.as_mut().unwrap().readonly = false;
            bundle.write();
            bundle
        };
        std::fs::create_dir_all(&canary).unwrap();
        let place = bundle.rootfs().join(name);
        std::fs::remove_dir_all(&place).ok();
        std::os::unix::fs::symlink(&canary, &place).unwrap();
        run(&sandbox, &bundle);
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0, "{name}");
        std::fs::remove_dir(&canary).unwrap();
    }
}
