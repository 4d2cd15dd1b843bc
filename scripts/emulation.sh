# Sourced by the tests that take what a machine may lack: emulators, MPI. They set `what`, the name of what is tested, and
# `required`: 1 where a skip is a failure.
# shellcheck shell=bash

# Says why nothing is tested, and ends.
cannot() {
    local rule="----------------------------------------------------------------"
    printf '%s\n' "$rule" "SKIPPED: $what is not tested here: $1" "$rule"
    if [ "$required" = 1 ]; then
        echo "error: $what is required" >&2
        exit 1
    fi
    exit 0
}

# Installs packages of Debian, some of them perhaps `PACKAGE:arm64`.
install() {
    local first=
    case " $* " in *":arm64 "*) first="dpkg --add-architecture arm64" ;; esac
    command -v apt-get >/dev/null || cannot "install by hand what Debian calls $*"
    [ "$(id -u)" = 0 ] || cannot "run as root: ${first:+$first; }apt-get update; apt-get install $*"
    echo "installing $*"
    $first
    apt-get -qq update || cannot "the lists of packages cannot be had"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null ||
        cannot "these packages cannot be had: $*"
}
