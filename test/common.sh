# What the scripts that need packages, a mount and a clean end have in common: to be sourced by bash.

export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1

build_packages="meson ninja-build gcc libc6-dev linux-libc-dev pkg-config libfuse3-dev fuse3 libglib2.0-dev libjson-glib-dev libdlm-dev libquorum-dev libsystemd-dev libcap-ng-dev libseccomp-dev"
fuzz_packages="clang libclang-rt-14-dev"
cluster_packages="user-mode-linux corosync dlm-controld udev linux-source-6.1 make flex bison bc libelf-dev xz-utils"

# The Debian packages that are missing.
install_packages() {
        local package missing=()
        for package in "$@"; do
                dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
        done
        [ ${#missing[@]} -gt 0 ] || return 0
        echo "installing ${missing[*]}"
        DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
                without_services env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}"
}

# Run a command that installs packages; services among them are not started.
without_services() (
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
                trap 'rm -f "$policy"' EXIT
                trap 'exit 130' HUP INT TERM
                printf '#!/bin/sh\nexit 101\n' >"$policy"
                chmod 755 "$policy"
        fi
        "$@"
)

check_fuse() {
        [ -e /dev/fuse ] || modprobe fuse || true
        if ! { true <>/dev/fuse; }; then
                echo "/dev/fuse cannot be used: this needs a machine with FUSE"
                return 1
        fi
}

targets=                                # of ninja; none: all

build() {                               # DIRECTORY OPTION...
        local directory=$1 again=()
        shift
        [ ! -e "$directory/meson-private/coredata.dat" ] || again=(--reconfigure)
        meson setup "${again[@]}" "$directory" -Dwerror=true -Ddlm=enabled -Dsystemd=enabled "$@" && ninja -C "$directory" $targets
}

# Run a command in namespaces of processes and of mounts, with the usual signals. Whatever it leaves,
# daemons, mounts and guests, ends with it, also when we are killed.
enclosed() {
        unshare --mount --pid --fork --kill-child --mount-proc -- env --default-signal bash -c '"$@"; exit' enclosed "$@"
}
