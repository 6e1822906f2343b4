# shellcheck shell=bash
# What the experiments have in common; sourced by the scripts beside it.
#
#   experiment NAME      builds layerctl, makes a fresh ext4 at $disk with a store on it, and goes away with all of it
#   layerctl …           the program, on that store
#   image NAME FILES KB  an image of so many files of so many kilobytes each, in one layer
#   record FILE [DISK]   from now on, writes seconds and bytes in use to FILE, 20 times a second
#   event WHAT           names this moment in the picture
#   draw                 draws what gnuplot is told on standard input, with the events, to $picture
#
# Needs root, as loop devices do. $picture is NAME.svg in the directory where it is called, or what PICTURE says.
set -euo pipefail
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tools/lib/install.sh
source "$clone/tools/lib/install.sh"

experiment() {
    if ((EUID != 0)); then
        echo "This takes root: it mounts a file system of its own." >&2
        exit 1
    fi
    picture=${PICTURE:-$PWD/$1.svg}
    needed gnuplot=gnuplot-nox mkfs.ext4=e2fsprogs mount=mount fusermount3=fuse3
    PATH="$PATH:/usr/sbin:/sbin"
    if [[ -z ${LAYERCTL:-} ]]; then
        rust
        cargo build --quiet --release --manifest-path "$clone/Cargo.toml"
        LAYERCTL=${CARGO_TARGET_DIR:-$clone/target}/release/layerctl
    fi
    scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/layerctl-experiment.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    disk=$scratch/disk
    new_disk "$disk"
    export LAYERCTL_ROOT=$disk/store
}

layerctl() { "$LAYERCTL" "$@"; }

# A fresh ext4 of 16 GiB, sparse, at a directory.
new_disk() {
    truncate -s 16G "$1.image"
    mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$1.image"
    mkdir "$1"
    mount -o loop "$1.image" "$1"
    rm "$1.image"
}

started=()
clean_up() {
    local pid path
    for pid in ${started[@]+"${started[@]}"}; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    for path in $(findmnt -rno TARGET | grep -F "$scratch/" | tac); do
        umount "$path" 2>/dev/null || umount -l "$path"
    done
    rm -rf "$scratch"
}

# Files that nothing compresses, in directories of 100.
tree() {
    local n
    mkdir -p "$1"
    for ((n = 0; n < $2; n += 100)); do
        mkdir "$1/$n"
        head -c "$((100 * $3))K" /dev/urandom | split -a 2 -d -b "$3K" - "$1/$n/file-"
    done
}

image() {
    tree "$scratch/tree" "$2" "$3"
    tar -C "$scratch/tree" -cf - . | layerctl import - "$1" >/dev/null
    rm -rf "$scratch/tree"
}

# Sets $began. The kernel's own counters: statfs(2).
record() {
    local of=${2:-$disk} to=$1
    : "${began:=$EPOCHREALTIME}"
    (
        while :; do
            read -r total free size < <(stat -f -c '%b %f %S' "$of")
            echo "$(seconds) $(((total - free) * size))"
            sleep 0.05
        done >"$to"
    ) &
    started+=($!)
}

# Since the recording began.
seconds() { awk "BEGIN { printf \"%.3f\", $EPOCHREALTIME - $began }"; }

event() {
    echo "$(seconds) $*"
    echo "$(seconds) \"$*\"" >>"$scratch/events"
}

# The events as labels and lines, and what standard input says.
draw() {
    local at what n=0
    {
        echo 'set terminal svg size 1000,520 dynamic font "sans-serif,13" background "white"'
        echo "set output '$picture'"
        echo 'set grid ytics lc rgb "#dddddd"; set border 3; set tics nomirror; set key outside bottom horizontal'
        if [[ -e $scratch/events ]]; then
            echo 'set offsets graph 0, graph 0, graph 0.4, graph 0'
            while read -r at what; do
                echo "set arrow from $at, graph 0 to $at, graph 1 nohead lc rgb '#888888'"
                echo "set label $what at $at, graph $(awk "BEGIN { print 0.98 - 0.05 * ($n % 8) }") offset 0.5,0 font ',11'"
                n=$((n + 1))
            done <"$scratch/events"
        fi
        cat
    } >"$scratch/draw.gnuplot"
    gnuplot "$scratch/draw.gnuplot"
    echo "Drawn: $picture"
}
