#!/usr/bin/env bash
# Image stores side by side: the table of SPECIFICATION.md, "Images".
#
#   bench/image-run.sh [-n RUNS] [-t "load save images inspect rmi pull"] [-a ARCHIVE] [-r REGISTRY/NAME:TAG] [NAME …]
#
# As root. NAMEs are of corten-erofs, corten-directory, podman, docker and ctr (containerd, pull alone); without any, those
# that are on PATH and answer. What the ratios are taken to comes last. ARCHIVE is a docker-archive of one image; without
# one, this machine's own /usr is made an image. `pull` wants an image in a registry that is spoken to without TLS.
# Every store of Corten's and podman's lies in a directory that goes with the run; docker's and containerd's daemons keep
# their own, and lose the image again after each run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
runs=7 tests="load save images inspect rmi" archive="" registry=""
while getopts n:t:a:r: option; do
  case $option in
    n) runs=$OPTARG ;; t) tests=$OPTARG ;; a) archive=$OPTARG ;; r) registry=$OPTARG ;; *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 2; }
corten=${CORTEN:-$(ls -t "$target"/*/release/corten "$target"/release/corten 2>/dev/null | head -n 1)}
[ -n "$corten" ] || { echo "bench: no release binary; cargo build --release" >&2; exit 2; }
if [ $# = 0 ]; then
  set -- corten-directory corten-erofs
  if command -v podman >/dev/null; then set -- "$@" podman; fi
  if docker version >/dev/null 2>&1; then set -- "$@" docker; fi
fi

work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/corten-bench.XXXXXX")
trap 'clear_away "$work"' EXIT
timer=${TIMER:-$work/timer}
[ -n "${TIMER-}" ] || cc -O2 -o "$timer" "$here/timer.c"

# Removes a store; the work that it still does in the background may put something back for a moment.
clear_away() {
  for _ in 1 2 3 4 5; do rm -rf "$1" 2>/dev/null && return; sleep 1; done
}

# The engine NAME with a store of its own for the test KIND.
engine() {
  case $1 in
    corten-*) echo "$corten --root $work/$2-$1 --run-root $work/run --layer-form ${1#corten-}" ;;
    podman) echo "podman --root $work/$2-podman --runroot $work/run-podman" ;;
    docker) echo docker ;;
    *) echo "bench: unknown name $1" >&2; exit 2 ;;
  esac
}

if [ -z "$archive" ]; then
  maker=$(engine corten-directory made)
  tar -C / -cf - usr | $maker import - localhost/bench:latest >/dev/null
  archive=$work/archive.tar
  $maker save -o "$archive" localhost/bench:latest
  clear_away "$work/made-corten-directory"
fi
image=$(tar -xOf "$archive" manifest.json | sed 's/.*"RepoTags":\["\([^"]*\)".*/\1/')

for test in $tests; do
  lines=$work/lines
  : >"$lines"
  for name in "$@"; do
    case $test-$name in
      pull-ctr)
        ctr=${CTR:-ctr}
        echo "ctr :: $ctr image pull --plain-http $registry :: !$ctr image rm --sync $registry; $ctr content prune references; sleep 1" >>"$lines"
        continue ;;
      *-ctr) continue ;;
    esac
    e=$(engine "$name" "$test")
    case $test in
      # What the removal before left is deleted before the next run begins: nobody measures another's background.
      load) echo "$name :: $e load -q -i $archive :: !$e rmi -f $image; sleep ${SETTLE:-2}" ;;
      save)
        $e load -q -i "$archive" >/dev/null 2>&1
        echo "$name :: $e save -o $work/$name.tar $image :: rm -f $work/$name.tar" ;;
      images | inspect)
        echo x >"$work/x"
        for number in $(seq 100); do tar -C "$work" -cf - x | $e import - "localhost/many:$number" >/dev/null 2>&1; done
        [ "$test" = images ] && echo "$name :: $e images" || echo "$name :: $e inspect localhost/many:50" ;;
      rmi) echo "$name :: $e rmi -f $image :: sleep ${SETTLE:-2} :: $e load -q -i $archive" ;;
      pull)
        flags=""
        [ "$name" = podman ] && flags=--tls-verify=false
        echo "$name :: $e pull -q $flags $registry :: !$e rmi -f $registry; sleep ${SETTLE:-2}" ;;
      *) echo "bench: unknown test $test" >&2; exit 2 ;;
    esac >>"$lines"
  done
  echo "## $test ($runs runs, load $(cut -d' ' -f1 /proc/loadavg))"
  "$timer" -n "$runs" -q "${QUIET:-1500}" <"$lines"
  for name in "$@"; do
    if [ "$name" = docker ]; then
      docker rmi -f "$image" $(docker images -q localhost/many) >/dev/null 2>&1 || true
    fi
    clear_away "$work/$test-$name"
  done
done

# How long the space takes to come back, which no timer of a command sees.
case " $tests " in *" rmi "*)
  for name in "$@"; do
    case $name in corten-*) ;; *) continue ;; esac
    e=$(engine "$name" space)
    $e load -q -i "$archive" >/dev/null
    $e rmi -f "$image" >/dev/null
    start=$(date +%s%N)
    while [ "$(du -sm "$work/space-$name" | cut -f1)" -gt 4 ]; do sleep 0.02; done
    echo "## space of $name back after $((($(date +%s%N) - start) / 1000000)) ms"
    clear_away "$work/space-$name"
  done ;;
esac
