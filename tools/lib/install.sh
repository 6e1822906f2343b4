# shellcheck shell=bash
# Installs what is missing on Debian and Ubuntu; sourced by the scripts beside this directory.
#
#   needed   PROGRAM=PACKAGES…   without these nothing works: ends the script when they stay missing
#   wanted   PROGRAM=PACKAGES…   without these some tests are skipped: goes on
#
# Quiet when everything is there. Not root: says what to install and installs nothing.

needed() {
    install_missing "$@"
    local pair
    for pair in "$@"; do
        if ! have "${pair%%=*}"; then
            echo "Missing: ${pair%%=*}. Install it, as root: apt-get install ${pair#*=}" >&2
            exit 1
        fi
    done
}

wanted() {
    install_missing "$@"
}

have() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null
}

install_missing() {
    local pair package names packages=()
    for pair in "$@"; do
        have "${pair%%=*}" && continue
        read -ra names <<<"${pair#*=}"
        packages+=("${names[@]}")
    done
    if ((${#packages[@]} == 0)); then
        return
    fi
    if ! have apt-get; then
        echo "Not here: ${packages[*]} (and no apt-get to install them)" >&2
    elif ((EUID != 0)); then
        echo "Not here; as root: apt-get install --no-install-recommends ${packages[*]}" >&2
    else
        echo "Installing ${packages[*]}" >&2
        apt_get update || true
        # All at once is fast; one by one gets what can be had when one of them does not exist here.
        apt_get install "${packages[@]}" && return
        for package in "${packages[@]}"; do
            apt_get install "$package" || echo "Cannot be installed here: $package" >&2
        done
    fi
}

apt_get() {
    local log status=0
    log=$(mktemp)
    # No services are started: the tests run the programs themselves.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" </dev/null >"$log" 2>&1 || status=$?
    if ((status != 0)); then
        grep -E '^(E|W):' "$log" >&2 || true
    fi
    rm -f "$log"
    return "$status"
}

# The Rust toolchain, from PATH or from where rustup puts it.
rust() {
    if ! have cargo && [[ -f "${CARGO_HOME:-$HOME/.cargo}/env" ]]; then
        # shellcheck source=/dev/null
        source "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
    if ! have cargo; then
        echo "Missing: cargo. Install Rust 1.88 or newer: https://rustup.rs" >&2
        exit 1
    fi
    # SQLite, zstd and xz are compiled from C.
    needed "cc=gcc libc6-dev"
}
