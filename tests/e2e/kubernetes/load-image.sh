#!/usr/bin/env bash
# Imports an image into the running cluster, for pods with imagePullPolicy IfNotPresent or Never:
#   load-image.sh DOCKER_ARCHIVE [NAME:TAG]
# NAME:TAG replaces the name that the archive contains. Prints the full names by which the cluster has the image.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
archive=${1:?usage: load-image.sh DOCKER_ARCHIVE [NAME:TAG]} name=${2:-}
[[ -r "$archive" ]] || die "cannot read $archive"
is_alive containerd || die "the cluster is not up: run up.sh"

# containerd requires full names; the kubelet adds the same prefixes to the names in a pod.
case $name in
    '' | localhost/* | *.*/* | *:*/*) ;;
    */*) name=docker.io/$name ;;
    *) name=docker.io/library/$name ;;
esac

output=$(ctr images import "$archive" 2>&1) || die "the import failed: $output"
names=$(sed -n 's/^unpacking \([^ ]*\) (sha256:.*/\1/p' <<<"$output")
[[ -n "$names" ]] || die "no image in $archive: $output"
if [[ -n "$name" ]]; then
    ctr images tag --force "$(head -n1 <<<"$names")" "$name" >/dev/null
    names=$name
fi
# The runtime's own list follows the import within moments; a pod that is created before that fails to pull.
for name in $names; do
    for ((i = 0; i < 50; i++)); do
        if [[ -n "$(ctr images ls -q "name==$name,labels.\"io.cri-containerd.image\"==managed")" ]]; then continue 2; fi
        sleep 0.1
    done
    die "the runtime does not list $name"
done
printf '%s\n' "$names"
