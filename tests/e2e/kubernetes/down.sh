#!/usr/bin/env bash
# Stops the cluster of up.sh and removes it: pods, processes, mounts, network, kernel settings. The logs and the cache of
# build.sh remain. Does nothing if nothing is up.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
require_root
if [[ -d "$STATE" ]]; then lock; fi
if [[ ! -e "$STATE/up" ]]; then
    say "nothing is up"
    exit 0
fi
incomplete=0

# The kubelet first, which would start pods again; then the pods, through their runtime.
stop kubelet kube-controller-manager kube-scheduler
if is_alive containerd; then
    say "stopping the pods"
    "$BIN/stop-all-pods" "unix://$CONTAINERD_SOCKET" >"$LOGS/stop-all-pods.log" 2>&1 ||
        { say "not all pods stopped: see $LOGS/stop-all-pods.log"; incomplete=1; }
fi
# A pod that did not stop has a shim, with the socket in its arguments, as parent of its processes.
for process in /proc/[0-9]*; do
    grep -qzxF -- "$CONTAINERD_SOCKET" "$process/cmdline" 2>/dev/null || continue
    [[ "$(readlink "$process/exe" 2>/dev/null)" == */containerd-shim-runc-v2 ]] || continue
    say "killing the shim ${process#/proc/}"
    read -ra children <<<"$(cat "$process"/task/*/children 2>/dev/null | tr '\n' ' ')"
    kill -KILL "${children[@]}" "${process#/proc/}" 2>/dev/null || true
done

say "stopping the other components"
stop kube-proxy kube-apiserver containerd
stop etcd

# Mounts below the state folder, the innermost first.
mounts() { awk -v below="$STATE/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | tac; }
while read -r mount; do
    umount "$mount" 2>/dev/null || umount -l "$mount" || true
done < <(mounts)

for table in 'ip kube-proxy' 'ip6 kube-proxy' 'inet kubernetes-fixture'; do
    read -r family name <<<"$table"
    nft delete table "$family" "$name" 2>/dev/null || true
done
ip link delete "$BRIDGE" 2>/dev/null || true
for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if [[ -d "$root/kubepods" ]]; then find "$root/kubepods" -depth -type d -exec rmdir {} + 2>/dev/null || true; fi
done
if [[ -s "$STATE/sysctl-before" ]]; then
    sysctl -q -p "$STATE/sysctl-before" >/dev/null 2>&1 || say "some kernel settings could not be restored"
fi

# Outside the state folder: only what is known to be of this cluster, and empty folders.
remove_outside() { # remove_outside FOLDER
    local result id socket
    case $1 in
        /var/log/containers) find "$1" -type l -lname "$LOGS/*" -delete 2>/dev/null || true ;;
        /var/lib/kubelet) rm -rf "$1/device-plugins" "$1/pod-resources" ;;
        /var/lib/cni)
            for result in "$1"/results/kubernetes-fixture-*-eth0; do
                id=${result##*/kubernetes-fixture-}
                rm -f "$result" "$1/results/cni-loopback-${id%-eth0}-lo"
            done
            ;;
        /run/containerd) # sockets on which nothing listens
            for socket in "$1"/s/*; do
                if [[ -S "$socket" ]] && ! grep -qF "$socket" /proc/net/unix; then rm -f "$socket"; fi
            done
            ;;
    esac
    find "$1" -depth -type d -empty -delete 2>/dev/null || true
}
if [[ -e "$STATE/created-outside" ]]; then
    while read -r folder; do remove_outside "$folder"; done <"$STATE/created-outside"
fi

if [[ -n "$(mounts)" ]]; then
    say "there is still a mount below $STATE"
    incomplete=1
else
    find "$STATE" -mindepth 1 -maxdepth 1 ! -name logs ! -name lock -exec rm -rf {} +
fi
((incomplete == 0)) || exit 1
say "down"
