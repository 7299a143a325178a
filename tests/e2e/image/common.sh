# Sourced by the other scripts.
# shellcheck shell=bash
say() { printf '%s\n' "$*" >&2; }

die() {
    say "image: $*"
    exit 1
}

require_root() { [[ $(id -u) == 0 ]] || die "root is required"; }

require() { # require COMMAND...
    local command missing=()
    for command; do command -v "$command" >/dev/null || missing+=("$command"); done
    ((${#missing[@]} == 0)) || die "missing: ${missing[*]}"
}

install_packages() { # install_packages COMMAND...: a Debian package of the same name has it
    local command missing=()
    for command; do command -v "$command" >/dev/null || missing+=("$command"); done
    if ((${#missing[@]} == 0)); then return; fi
    { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null || die "apt-get cannot install ${missing[*]}"
}

registry_name() { # registry_name IMAGE: with the registry that Docker assumes
    case $1 in
        localhost/* | *.*/* | *:*/*) echo "$1" ;;
        */*) echo "docker.io/$1" ;;
        *) echo "docker.io/library/$1" ;;
    esac
}

buildah() { command buildah --storage-driver vfs "$@"; }
