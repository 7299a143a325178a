#!/usr/bin/env bash
# Installs and compiles what up.sh starts: Debian packages, and Kubernetes, kubectl and CoreDNS from their Go modules.
# The result is cached in $KUBE_CACHE for each content of this folder and version of Go. Prints the path of the result.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
PATH=$PATH:/usr/local/go/bin
require_root
require apt-get dpkg go

# By program and not by package, since a container engine of another vendor may have brought some of them.
declare -A packages=([etcd]=etcd-server [openssl]=openssl [curl]=curl [containerd]=containerd [ctr]=containerd [runc]=runc
    [/usr/lib/cni/bridge]=containernetworking-plugins [nft]=nftables [iptables]=iptables [ip]=iproute2 [modprobe]=kmod
    [sysctl]=procps [gcc]='gcc libc6-dev')
missing=()
for program in "${!packages[@]}"; do
    command -v "$program" >/dev/null || read -ra missing <<<"${missing[*]} ${packages[$program]}"
done
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
if ((${#missing[@]} > 0)); then
    say "installing ${missing[*]}"
    # RUNLEVEL=1: Debian's own services of etcd and containerd are not started.
    { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$CACHE/apt-get.log" 2>&1 || die "apt-get could not install ${missing[*]}" "$CACHE/apt-get.log"
fi

cd "$HERE"
sources=(go.mod go.sum main.go kubectl/main.go coredns/go.mod coredns/go.sum coredns/main.go pause/pause.c pack-image.sh)
key=$({ cat "${sources[@]}" && go version; } | sha256sum | cut -c1-16)
built=$CACHE/$key
mkdir -p "$built"

build() { # build NAME COMMAND...: COMMAND writes $built/NAME.part; its output is shown only if it fails
    local name=$1 since=$SECONDS pid
    shift
    if [[ -e "$built/$name" ]]; then return; fi
    say "building $name"
    "$@" >"$CACHE/build-$name.log" 2>&1 9>&- &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        (((SECONDS - since) % 60)) || say "still building $name, $(((SECONDS - since) / 60)) min"
    done
    wait "$pid" || die "building $name failed" "$CACHE/build-$name.log"
    mv "$built/$name.part" "$built/$name"
    say "built $name in $((SECONDS - since)) s"
}

go_build() { # go_build MODULE_FOLDER PACKAGE NAME
    local version
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
    cd "$HERE/$1"
    nice go build -buildvcs=false -o "$built/$3.part" -ldflags "-s -w
        -X k8s.io/component-base/version.gitVersion=$version
        -X k8s.io/component-base/version.gitMajor=1
        -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$version")" "$2"
}

debian_busybox() { # unpacked and not installed, since the package conflicts with the other busybox of Debian
    local folder
    folder=$(mktemp -d)
    chmod 755 "$folder" # for apt-get's own user
    (
        cd "$folder"
        apt-get download busybox-static || { apt-get update && apt-get download busybox-static; }
        dpkg -x busybox-static_*.deb .
        cp bin/busybox "$built/busybox.part"
    )
    rm -rf "$folder"
}

pack() { # pack NAME:TAG USER BINARY [ARGUMENT] [-- LINK...]: $built/BINARY.tar, an image with /bin/BINARY and links to it
    local image=$1 user=$2 binary=$3 root link arguments=()
    shift 3
    if [[ -e "$built/$binary.tar" ]]; then return; fi
    root=$(mktemp -d)
    mkdir -p "$root/bin" "$root/tmp"
    chmod 755 "$root"
    chmod 1777 "$root/tmp"
    install -m 755 "$built/$binary" "$root/bin/$binary"
    if [[ $# -gt 0 && $1 != -- ]]; then
        arguments=("$1")
        shift
    fi
    for link in "${@:2}"; do ln -s "$binary" "$root/bin/$link"; done
    "$HERE/pack-image.sh" "$image" "$root" "$built/$binary.tar.part" "$user" "/bin/$binary" "${arguments[@]}"
    mv "$built/$binary.tar.part" "$built/$binary.tar"
    rm -rf "$root"
}

build hyperkube go_build . . hyperkube
build kubectl go_build . ./kubectl kubectl
CGO_ENABLED=0 build coredns go_build coredns . coredns
build pause gcc -Os -static -s -o "$built/pause.part" pause/pause.c
build busybox debian_busybox
pack localhost/pause:3.10 65535:65535 pause
pack localhost/coredns:fixture 65532:65532 coredns
mapfile -t applets < <("$built/busybox" --list | grep -vx busybox)
pack localhost/busybox:fixture 0:0 busybox sh -- "${applets[@]}"

# Results of other contents of this folder that have not been built for a week.
find "$CACHE" -mindepth 1 -maxdepth 1 -type d ! -name "$key" -mtime +7 -exec rm -rf {} +
echo "$built"
