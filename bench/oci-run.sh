#!/usr/bin/env bash
# OCI runtimes side by side: the table of SPECIFICATION.md, "Start-up time".
#
#   cargo xtask bench [-n RUNS] [-b "std docker"] [-t "run lifecycle exec state start"] [NAME="COMMAND" …]
#
# As root. COMMAND is anything that takes runc's command line. Without NAMEs: corten (the release binary) and runc, crun
# and youki as far as they are on PATH; crun, where there is one, comes last and is what the ratios are taken to.
# Everything runs in a mount and a network namespace of its own in which only the cgroup hierarchies that every peer knows
# are mounted (crun refuses a cgroup2 mount that owns a controller beside v1's).
#
# Bundles: `std` is what `runc spec` writes, without a terminal, running `true`. `docker` adds docker's default seccomp
# profile, its capabilities, 256 MiB, one CPU and 100 processes; `cargo xtask bundles` writes them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
runs=30 bundles="std docker" tests="run lifecycle exec state start"
while getopts n:b:t: option; do
  case $option in n) runs=$OPTARG ;; b) bundles=$OPTARG ;; t) tests=$OPTARG ;; *) exit 2 ;; esac
done
shift $((OPTIND - 1))
[ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 2; }

# A world of its own, entered once by starting this script again.
if [ -z "${BENCH_WORLD-}" ]; then
  export BENCH_WORLD=1
  exec unshare --mount --net --propagation private "$0" -n "$runs" -b "$bundles" -t "$tests" "$@"
fi
if [ -d /sys/fs/cgroup/memory ] && [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
  for hierarchy in /sys/fs/cgroup/*; do
    if [ "$(stat -fc %T "$hierarchy")" = cgroup2fs ]; then umount -l "$hierarchy"; fi
  done
fi

if [ $# = 0 ]; then
  binary=$(ls -t "$target"/*/release/corten "$target"/release/corten 2>/dev/null | head -n 1)
  [ -n "$binary" ] || { echo "bench: no release binary; cargo build --release" >&2; exit 2; }
  set -- corten="$binary runtime"
  for peer in runc youki crun; do if command -v $peer >/dev/null; then set -- "$@" "$peer=$peer"; fi; done
  [ $# -gt 1 ] || echo "bench: no peer on PATH; Debian has them in the packages runc and crun (cargo xtask peers)" >&2
fi

work=$(mktemp -d /tmp/corten-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
cc -O2 -o "$work/timer" "$here/timer.c"
(cd "$here/.." && cargo xtask bundles "$work/bundles")

for bundle in $bundles; do
  for peer in "$@"; do
    name=${peer%%=*}
    mkdir -p "$work/state/$name"
    for kind in "$bundle" "sleep-$bundle"; do
      mkdir -p "$work/$name/$kind"
      # A cgroup of its own for each peer: runc refuses one that somebody else sits in.
      sed "s|/corten-bench/NAME|/corten-bench/$name|" "$work/bundles/$kind/config.json" \
        >"$work/$name/$kind/config.json"
    done
  done
  for test in $tests; do
    lines=$work/lines
    : >"$lines"
    for peer in "$@"; do
      name=${peer%%=*} r="${peer#*=} --root $work/state/${peer%%=*}" once=$work/${peer%%=*}/$bundle
      sleeper=$work/$name/sleep-$bundle
      case $test in
        run) echo "$name :: $r run --bundle $once run%i" ;;
        lifecycle) echo "$name :: !$r create --bundle $sleeper life%i && $r start life%i && $r delete -f life%i" ;;
        create) echo "$name :: $r create --bundle $sleeper create%i :: $r delete -f create%i" ;;
        start) echo "$name :: $r start start%i :: $r delete -f start%i :: $r create --bundle $sleeper start%i" ;;
        delete) echo "$name :: $r delete -f del%i :: !: :: !$r create --bundle $sleeper del%i && $r start del%i" ;;
        exec | state)
          $r create --bundle "$sleeper" held </dev/null >/dev/null 2>&1 && $r start held
          [ $test = exec ] && echo "$name :: $r exec held /bin/true" || echo "$name :: $r state held"
          ;;
        *) echo "bench: unknown test $test" >&2; exit 2 ;;
      esac
    done >"$lines"
    echo "## $test, bundle $bundle ($runs runs, load $(cut -d' ' -f1 /proc/loadavg))"
    "$work/timer" -n "$runs" -q "${QUIET:-1500}" <"$lines"
    for peer in "$@"; do
      ${peer#*=} --root "$work/state/${peer%%=*}" delete -f held >/dev/null 2>&1 || true
    done
  done
done
find /sys/fs/cgroup -depth -type d -path '*/corten-bench*' -exec rmdir {} + 2>/dev/null || true
