# Sourced by the other scripts: paths, addresses, and how processes are started, recorded and stopped.
# shellcheck shell=bash disable=SC2034
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export HOME=${HOME:-/root} # Go requires one
STATE=${KUBE_STATE:-/var/lib/kubernetes-fixture}     # the running cluster; only the logs outlive down.sh
CACHE=${KUBE_CACHE:-$HOME/.cache/kubernetes-fixture} # what build.sh compiled
LOGS=$STATE/logs RUN=$STATE/run BIN=$STATE/bin PKI=$STATE/pki CONF=$STATE/conf
ADMIN_KUBECONFIG=$STATE/kubeconfig
CONTAINERD_SOCKET=$STATE/containerd.sock

BRIDGE=kubefx0 # the bridge of the pods; its address is the node's
NODE=fixture
NODE_IP=10.244.0.1
API_SERVER=https://$NODE_IP:6443
POD_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
DNS_IP=10.96.0.10 # coredns.yaml repeats it
DOMAIN=cluster.local
ETCD=127.0.0.1:12379
ETCD_PEER=127.0.0.1:12380

# Kernel settings that the kubelet and the bridge change. down.sh restores the old values.
SYSCTLS=(net.ipv4.ip_forward net.ipv4.conf.all.forwarding net.bridge.bridge-nf-call-iptables
    vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
    kernel.keys.root_maxkeys kernel.keys.root_maxbytes)
# Fixed paths outside $STATE that kubelet, containerd and CNI create. down.sh removes those that did not exist before.
OUTSIDE=(/var/lib/kubelet /var/lib/cni /var/log/containers /run/containerd /opt/cni)

say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

die() { # die MESSAGE [LOG]
    printf 'test cluster: %s\n' "$1" >&2
    if [[ -s "${2:-}" ]]; then
        printf -- '--- the end of %s:\n' "$2" >&2
        tail -n 25 "$2" >&2
    fi
    exit 1
}

require_root() { [[ $(id -u) == 0 ]] || die "root is required"; }

require() { # require COMMAND...
    local command missing=()
    for command; do command -v "$command" >/dev/null || missing+=("$command"); done
    ((${#missing[@]} == 0)) || die "missing: ${missing[*]}"
}

# A process is identified by PID and start time, since a PID can be reused. A zombie counts as ended.
start_time() { # start_time PID
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} == Z ]] || echo "${fields[19]}"
}

start() { # start NAME COMMAND...: in the background, its output to $LOGS/NAME.log
    local name=$1
    shift
    setsid "$@" >"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
    echo "$! $(start_time $!)" >"$RUN/$name.pid"
}

is_alive() { # is_alive NAME
    local pid started
    read -r pid started 2>/dev/null <"$RUN/$1.pid" || return 1
    [[ -n "$started" && "$(start_time "$pid")" == "$started" ]]
}

signal() { # signal SIGNAL NAME
    local pid _
    read -r pid _ <"$RUN/$2.pid"
    kill "-$1" "$pid" 2>/dev/null || true
}

stop() { # stop NAME...: SIGTERM, after 20 s SIGKILL
    local name i alive=()
    for name; do if is_alive "$name"; then signal TERM "$name"; fi; done
    for ((i = 0; i < 200; i++)); do
        alive=()
        for name; do if is_alive "$name"; then alive+=("$name"); fi; done
        ((${#alive[@]} > 0)) || break
        sleep 0.1
    done
    for name in "${alive[@]}"; do
        say "$name ignores SIGTERM: SIGKILL"
        signal KILL "$name"
    done
    for name; do rm -f "$RUN/$name.pid"; done
}

wait_for() { # wait_for SECONDS COMPONENT CONDITION COMMAND...: until COMMAND succeeds, while COMPONENT runs
    local end=$((SECONDS + $1)) component=$2 condition=$3
    shift 3
    until "$@" >/dev/null 2>&1; do
        is_alive "$component" || die "$component ended before $condition" "$LOGS/$component.log"
        ((SECONDS < end)) || die "timeout: $condition" "$LOGS/$component.log"
        sleep 0.3
    done
}

lock() { # one up.sh or down.sh at a time
    mkdir -p "$STATE"
    exec 9>"$STATE/lock"
    flock -w 600 9 || die "another up.sh or down.sh still runs on $STATE"
}

kubectl() { "$BIN/kubectl" --kubeconfig "$ADMIN_KUBECONFIG" "$@"; }
ctr() { command ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io "$@"; }
