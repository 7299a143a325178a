#!/usr/bin/env bash
# Makes a local image under the name of a base image, where no image registry can be reached: base-image.sh IMAGE
#
# An image named `rust` is Debian 12 with a C compiler and this machine's Rust toolchain. Any other is Debian 12's libc,
# libgcc and CA certificates without a shell, as distroless images are; with `nonroot` in the name, its user is 65532.
# A build on it shows that the steps of the Dockerfile work. Size and libraries are not those of the published image.
set -euo pipefail
image=${1:?usage: base-image.sh IMAGE}
. "$(dirname "$(readlink -f "$0")")/common.sh"
require_root
require apt-get dpkg
[[ $(uname -m) == x86_64 ]] || die "base images are made for x86_64 only"
install_packages debootstrap

cache=${IMAGE_CACHE:-/var/tmp/stand-in} # Debian trees, 1 GB
debian=$cache/rust slim=$cache/slim

debian_tree() {
    if [[ -e "$debian/.done" ]]; then return; fi
    rm -rf "$debian"
    debootstrap --variant=minbase --include=ca-certificates,gcc,g++,libc6-dev,make,cmake,perl,pkg-config bookworm "$debian" >/dev/null
    cp /etc/ssl/certs/ca-certificates.crt "$debian/etc/ssl/certs/" # with the authorities that this machine trusts
    touch "$debian/.done"
}

slim_tree() {
    local library folder=lib/x86_64-linux-gnu
    if [[ -e "$slim/.done" ]]; then return; fi
    rm -rf "$slim"
    mkdir -p "$slim"/{etc/ssl/certs,lib64,tmp,"$folder"}
    for library in libc.so.6 libm.so.6 libgcc_s.so.1 libpthread.so.0 libdl.so.2 librt.so.1 libresolv.so.2; do
        cp -L "$debian/$folder/$library" "$slim/$folder/"
    done
    cp -L "$debian/lib64/ld-linux-x86-64.so.2" "$slim/lib64/"
    cp "$debian/etc/ssl/certs/ca-certificates.crt" "$slim/etc/ssl/certs/"
    printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$slim/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$slim/etc/group"
    chmod 1777 "$slim/tmp"
    touch "$slim/.done"
}

debian_tree
container=$(buildah from scratch)
trap 'buildah rm "$container" >/dev/null' EXIT
case ${image##*/} in
    rust*)
        require rustc
        buildah copy -q "$container" "$debian" / >/dev/null
        buildah copy -q "$container" "$(rustc --print sysroot)" /usr/local/rust >/dev/null
        buildah config --env CARGO_HOME=/usr/local/cargo \
            --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
        ;;
    *)
        slim_tree
        buildah copy -q "$container" "$slim" / >/dev/null
        case $image in *nonroot*) buildah config --user 65532:65532 "$container" ;; esac
        ;;
esac
buildah commit -q "$container" "$image" >/dev/null
