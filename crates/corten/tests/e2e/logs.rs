//! What a container printed, kept and shown again.

use std::time::Duration;

use corten_testkit::run::{eventually, finish};

use crate::sandbox;

#[test]
fn lines_of_any_kind_come_back_as_they_were() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for driver in ["json-file", "local", "k8s-file"] {
        let program =
            "printf 'a\"b\\\\\\t<é\\n\\n'; head -c 100000 /dev/zero | tr '\\0' x; printf '\\nlast'; echo err >&2";
        sandbox.corten(["run", "-d", "--name", driver, "--log-driver", driver, &tiny, "sh", "-c", program]).ok();
        sandbox.corten(["wait", driver]).ok().prints("0");
        let shown = sandbox.corten(["logs", driver]);
        let expected = format!("a\"b\\\t<é\n\n{}\nlast", "x".repeat(100_000));
        assert!(shown.ok().stdout == expected, "{driver}: {} bytes", shown.stdout.len());
        assert_eq!(shown.stderr, "err\n");
        sandbox.corten(["logs", "-n", "1", "--timestamps", driver]).ok();
    }
    sandbox.corten(["run", "--name", "none", "--log-driver", "none", &tiny, "echo", "gone"]).ok().prints("gone");
    sandbox.corten(["logs", "none"]).code(1).complains("does not support reading");
}

#[test]
fn rotated_files_are_read_in_order_and_the_oldest_are_gone() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for (name, compress) in [("plain", "false"), ("small", "true")] {
        let options = ["--log-opt", "max-size=40k", "--log-opt", "max-file=3", "--log-opt"];
        let compress = format!("compress={compress}");
        let args = ["run", "-d", "--name", name].into_iter().chain(options);
        sandbox.corten(args.chain([compress.as_str(), tiny.as_str(), "sh", "-c", "seq 1 3000"])).ok();
        sandbox.corten(["wait", name]).ok();
        let shown = sandbox.corten(["logs", name]);
        let numbers: Vec<u32> = shown.ok().stdout.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&3000), "{name}");
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{name}: a line is missing");
        assert!(sandbox.corten(["logs", "-n", "5", name]).ok().stdout == "2996\n2997\n2998\n2999\n3000\n", "{name}");
        assert_eq!(sandbox.corten(["logs", "-n", "0", name]).ok().stdout, "");
    }
}

#[test]
fn a_log_is_followed_across_rotation_to_the_end() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let program = "while [ ! -e /tmp/go ]; do sleep 0.05; done; i=0; while [ $i -lt 40 ]; do seq $((i*100+1)) $((i*100+100)); i=$((i+1)); done";
    let args = ["run", "-d", "--name", "web", "--log-opt", "max-size=64k", "--log-opt", "max-file=20"];
    sandbox.corten(args.into_iter().chain([tiny.as_str(), "sh", "-c", program])).ok();
    let follower = std::thread::scope(|scope| {
        let follower =
            scope.spawn(|| finish(sandbox.corten_command(["logs", "-f", "web"]), None, Duration::from_secs(60)));
        sandbox.corten(["exec", "web", "touch", "/tmp/go"]).ok();
        follower.join().unwrap()
    });
    let expected: String = (1..=4000).map(|number| format!("{number}\n")).collect();
    assert!(follower.ok().stdout == expected, "{} lines", follower.stdout.lines().count());
}

#[test]
fn a_slow_reader_of_the_log_never_stops_the_program() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let program = "seq 1 200000; echo done >/tmp/done; sleep 600";
    sandbox.corten(["run", "-d", "--name", "web", &tiny, "sh", "-c", program]).ok();
    let mut command = sandbox.corten_command(["logs", "-f", "web"]);
    let mut reader = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    assert!(eventually(Duration::from_secs(30), || sandbox.corten(["exec", "web", "cat", "/tmp/done"]).code == 0));
    reader.kill().unwrap();
    reader.wait().unwrap();
    sandbox.corten(["rm", "-f", "web"]).ok();
}
