#!/usr/bin/env bash
# Builds the image of the Dockerfile with no daemon, and writes it as a Docker archive: build.sh ARCHIVE NAME:TAG
# SOURCE_REVISION is the commit that the image names, SOURCE_DATE_EPOCH the time of all its files. The base images are
# pulled or, where no image registry can be reached, made by base-image.sh. An archive of the same files is kept.
set -euo pipefail
archive=$(realpath -m "${1:?usage: build.sh ARCHIVE NAME:TAG}") name=${2:?usage: build.sh ARCHIVE NAME:TAG}
revision=${SOURCE_REVISION:-unknown} time=${SOURCE_DATE_EPOCH:-0}
here=$(dirname "$(readlink -f "$0")")
cd "$here/../../.."
. "$here/common.sh"
name=$(registry_name "$name") # the only name in the archive
sources=$(find Dockerfile .dockerignore Cargo.toml Cargo.lock build.rs proto src "$here" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
sources="$name $revision $time $sources"
if [[ -e "$archive" && "$(cat "$archive.sources" 2>/dev/null)" == "$sources" ]]; then
    say "$archive is up to date"
    exit 0
fi
require_root
require apt-get dpkg
install_packages buildah runc # runc is for the checks of the image

# The names after FROM, except those of earlier stages.
base_images() {
    awk 'toupper($1) != "FROM" {next}
        {image = ($2 ~ /^--/) ? $3 : $2}
        !(image in stage) && image != "scratch" {print image}
        toupper($(NF - 1)) == "AS" {stage[$NF]}' Dockerfile | sort -u
}

for image in $(base_images); do
    if buildah inspect --type image "$image" >/dev/null 2>&1; then
        say "$image: present"
    elif output=$(buildah pull --quiet --retry 0 "$(registry_name "$image")" 2>&1); then
        buildah tag "$(registry_name "$image")" "$image"
        say "$image: pulled"
    else
        say "$image: made of Debian packages, since it cannot be pulled: $(tail -n 1 <<<"$output")"
        "$here/base-image.sh" "$image"
    fi
done

# Without --layers: with the storage driver vfs, each cached layer would be a copy of gigabytes.
buildah bud --quiet --isolation chroot --pull-never --network host --timestamp "$time" \
    --build-arg SOURCE_REVISION="$revision" -t "$name" .
mkdir -p "$(dirname "$archive")"
rm -f "$archive" "$archive.sources"
buildah push --quiet "$name" "docker-archive:$archive:$name"
buildah rmi "$name" >/dev/null
echo "$sources" >"$archive.sources"
