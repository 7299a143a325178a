#!/usr/bin/env bash
# Makes an image archive of a folder, with no daemon, builder or registry:
#   pack-image.sh NAME:TAG ROOT_FOLDER ARCHIVE USER:GROUP COMMAND [ARGUMENT...]
# For example, for a static binary:
#   pack-image.sh localhost/hello:1 ./root hello.tar 65532:65532 /hello && load-image.sh hello.tar
set -euo pipefail
if (($# < 5)); then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=$1 root=$2 archive=$3 user=$4
shift 4
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
entrypoint=$(printf ',"%s"' "$@")
cat >"$work/config.json" <<END
{
  "architecture": "$architecture",
  "os": "linux",
  "config": {"User": "$user", "Entrypoint": [${entrypoint#,}], "Env": ["PATH=/bin"]},
  "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}
}
END
cat >"$work/manifest.json" <<END
[{"Config": "config.json", "RepoTags": ["$name"], "Layers": ["layer.tar"]}]
END
tar -C "$work" -cf "$archive" manifest.json config.json layer.tar
