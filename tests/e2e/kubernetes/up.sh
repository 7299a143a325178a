#!/usr/bin/env bash
# Starts a single-node Kubernetes on this machine; README.md describes it. Does nothing if it is up; after a crash it
# cleans up first. Prints the path of a kubeconfig on standard output, and its progress on standard error.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
require_root
((${#CONTAINERD_SOCKET} < 90)) || die "KUBE_STATE is too long for the path of a socket: $STATE"
unshare --mount --net true 2>/dev/null || die "CAP_SYS_ADMIN is required, for the namespaces of containers"
built=$("$HERE/build.sh")
lock

components=(etcd kube-apiserver kube-controller-manager kube-scheduler containerd kubelet kube-proxy)
is_up() {
    local component
    for component in "${components[@]}"; do
        is_alive "$component" || { say "$component does not run"; return 1; }
    done
    kubectl get --raw /readyz >/dev/null 2>&1 || { say "the API server is not ready"; return 1; }
}
if [[ -e "$STATE/up" ]]; then
    if is_up; then
        say "already up"
        echo "$ADMIN_KUBECONFIG"
        exit 0
    fi
    say "removing what is left of an earlier cluster"
    flock -u 9
    "$HERE/down.sh" >&2
    lock
fi

# Nothing that it creates may exist already.
listens() { (exec 3<>"/dev/tcp/${1/://}") 2>/dev/null; }
for address in "$ETCD" "$ETCD_PEER" 127.0.0.1:10257 127.0.0.1:10259; do
    if listens "$address"; then die "another process listens on $address"; fi
done
if [[ -e "/sys/class/net/$BRIDGE" ]]; then die "there is a network interface $BRIDGE of another cluster"; fi
for family in ip ip6; do
    if nft list table "$family" kube-proxy >/dev/null 2>&1; then die "there is an nftables table '$family kube-proxy' already"; fi
done
if ip -4 route show table main | grep -E '^10\.(244\.0|96)\.' >&2; then die "the machine has a route into the cluster's network"; fi
[[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || modprobe br_netfilter 2>/dev/null ||
    die "the kernel has no br_netfilter, so pods cannot reach each other through a Service"

rm -rf "$LOGS"
mkdir -p "$LOGS" "$RUN" "$BIN" "$PKI" "$CONF/cni" "$STATE/etcd"
chmod 700 "$PKI" "$STATE/etcd"
touch "$STATE/up"
for command in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy stop-all-pods; do
    ln -sf "$built/hyperkube" "$BIN/$command"
done
ln -sf "$built/kubectl" "$BIN/kubectl"
cd "$STATE"

# The network: a bridge with the address of the node, and a route so that the host reaches Services.
sysctl "${SYSCTLS[@]}" 2>/dev/null | sed 's/ = /=/' >"$STATE/sysctl-before"
for path in "${OUTSIDE[@]}"; do [[ -e "$path" ]] || echo "$path"; done >"$STATE/created-outside"
ip link add "$BRIDGE" type bridge
ip addr add "$NODE_IP/24" dev "$BRIDGE"
ip link set "$BRIDGE" up
ip route add "$SERVICE_CIDR" dev "$BRIDGE" src "$NODE_IP"
# Pods reach nothing beyond this machine, and nothing beyond it reaches the cluster.
nft -f - <<END || die "nftables rejects the table of the test cluster"
table inet kubernetes-fixture {
  chain forward {
    type filter hook forward priority 0;
    iifname "$BRIDGE" oifname != "$BRIDGE" reject with icmpx type admin-prohibited
    iifname != "$BRIDGE" oifname "$BRIDGE" drop
  }
  chain input {
    type filter hook input priority 0;
    iifname != { "$BRIDGE", "lo" } ip daddr { $POD_CIDR, $SERVICE_CIDR } drop
  }
}
END
sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1

say "keys and certificates"
. "$HERE/pki.sh"

say "containerd"
cat >"$CONF/containerd.toml" <<END
version = 2
root = "$STATE/containerd/root"
state = "$STATE/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "$CONTAINERD_SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:3.10"
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE, a pod could not start otherwise
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$CONF/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$STATE/runc"
END
cat >"$CONF/cni/10-bridge.conflist" <<END
{"cniVersion": "0.4.0", "name": "kubernetes-fixture", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$STATE/cni", "ranges": [[{"subnet": "$POD_CIDR", "gateway": "$NODE_IP"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
start containerd containerd --config "$CONF/containerd.toml"

say "etcd and the API server"
start etcd etcd --name fixture --data-dir "$STATE/etcd" --listen-client-urls "http://$ETCD" --advertise-client-urls "http://$ETCD" \
    --listen-peer-urls "http://$ETCD_PEER" --initial-advertise-peer-urls "http://$ETCD_PEER" \
    --initial-cluster "fixture=http://$ETCD_PEER" --log-level warn --logger zap
wait_for 30 etcd "etcd is healthy" curl -fsS -m 2 "http://$ETCD/health"
start kube-apiserver "$BIN/kube-apiserver" --bind-address="$NODE_IP" --secure-port=6443 --etcd-servers="http://$ETCD" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false \
    --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" --cert-dir="$PKI" \
    --service-cluster-ip-range="$SERVICE_CIDR" --service-account-issuer="https://kubernetes.default.svc.$DOMAIN" \
    --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" --advertise-address="$NODE_IP" \
    --kubelet-client-certificate="$PKI/kube-apiserver-kubelet-client.crt" --kubelet-client-key="$PKI/kube-apiserver-kubelet-client.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP
wait_for 90 kube-apiserver "the API server is ready" kubectl get --raw /readyz

say "controllers and scheduler"
start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$CONF/kube-controller-manager" \
    --authentication-kubeconfig="$CONF/kube-controller-manager" --authorization-kubeconfig="$CONF/kube-controller-manager" \
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true --profiling=false \
    --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" --flex-volume-plugin-dir="$CONF/flex" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key"
start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$CONF/kube-scheduler" \
    --authentication-kubeconfig="$CONF/kube-scheduler" --authorization-kubeconfig="$CONF/kube-scheduler" \
    --bind-address=127.0.0.1 --leader-elect=false --profiling=false
wait_for 30 containerd "containerd answers" ctr version
for image in pause coredns busybox; do
    "$HERE/load-image.sh" "$built/$image.tar" >>"$LOGS/images.log" 2>&1 || die "cannot load the image $image" "$LOGS/images.log"
done

say "kubelet and kube-proxy"
: >"$CONF/resolv.conf"
cat >"$CONF/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
cgroupDriver: cgroupfs
clusterDNS: [$DNS_IP]
clusterDomain: $DOMAIN
resolvConf: $CONF/resolv.conf
podLogsDir: $LOGS/pods
volumePluginDir: $STATE/kubelet/volume-plugins
makeIPTablesUtilChains: false  # kube-proxy uses nftables
failSwapOn: false
oomScoreAdj: 0
syncFrequency: 10s             # how soon a changed ConfigMap or Secret appears in a volume; the default is 60 s
imageGCHighThresholdPercent: 100 # never: an image that is removed could not be pulled again
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 200Mi, nodefs.available: 500Mi, imagefs.available: 500Mi}
maxPods: 100
END
start kubelet "$BIN/kubelet" --config="$CONF/kubelet.yaml" --kubeconfig="$CONF/kubelet" --root-dir="$STATE/kubelet" \
    --cert-dir="$PKI" --hostname-override="$NODE" --node-ip="$NODE_IP"
cat >"$CONF/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $NODE
bindAddress: $NODE_IP
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: $CONF/kube-proxy}
clusterCIDR: $POD_CIDR
detectLocalMode: ClusterCIDR
oomScoreAdj: 0
nodePortAddresses: [$NODE_IP/32]
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s} # the kernel's values remain
END
start kube-proxy "$BIN/kube-proxy" --config="$CONF/kube-proxy.yaml"

say "node and DNS"
kubectl apply -f "$HERE/coredns.yaml" >"$LOGS/apply.log" 2>&1 || die "cannot create the objects of CoreDNS" "$LOGS/apply.log"
kubectl create clusterrolebinding fixture:kube-proxy --clusterrole=system:node-proxier --user=system:kube-proxy >>"$LOGS/apply.log"
has_account() { kubectl -n kube-system get serviceaccount default && kubectl -n default get serviceaccount default; }
wait_for 60 kube-controller-manager "the namespaces have service accounts" has_account
wait_for 90 kubelet "the node is registered" kubectl get node "$NODE"
wait_for 90 kubelet "the node is ready" kubectl wait node "$NODE" --for=condition=Ready --timeout=1s
wait_for 120 kubelet "CoreDNS is available" kubectl -n kube-system wait deployment/coredns --for=condition=Available --timeout=1s
# A pod that ends once it has resolved the name of a Service and reached the Service.
kubectl apply -f "$HERE/self-test.yaml" >>"$LOGS/apply.log" 2>&1 || die "cannot create the self-test" "$LOGS/apply.log"
wait_for 90 kube-proxy "a pod resolves and reaches a Service" \
    kubectl -n kube-system wait pod/self-test --for=jsonpath='{.status.phase}'=Succeeded --timeout=1s
kubectl -n kube-system delete pod self-test --wait=false >>"$LOGS/apply.log"
say "up; logs in $LOGS, kubectl in $BIN"
echo "$ADMIN_KUBECONFIG"
