# Sourced by up.sh: an authority, a certificate for each component, and a kubeconfig for each client.
# shellcheck shell=bash source-path=SCRIPTDIR
printf '[req]\ndistinguished_name=dn\n[dn]\n' >"$PKI/openssl.cnf"

certificate() { # certificate NAME SUBJECT EXTENSION...: signed by the authority, or by itself if it is the authority
    local name=$1 subject=$2 extension options=()
    shift 2
    if [[ "$name" != ca ]]; then options+=(-CA "$PKI/ca.crt" -CAkey "$PKI/ca.key"); fi
    for extension; do options+=(-addext "$extension"); done
    openssl req -x509 -config "$PKI/openssl.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
        -subj "$subject" "${options[@]}" -keyout "$PKI/$name.key" -out "$PKI/$name.crt" 2>"$LOGS/openssl.log" ||
        die "openssl cannot make the certificate $name" "$LOGS/openssl.log"
}

server_certificate() { # server_certificate NAME SUBJECT ALTERNATIVE_NAMES
    certificate "$1" "$2" basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth "subjectAltName=$3"
}

client_certificate() { # client_certificate NAME SUBJECT
    certificate "$1" "$2" basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature extendedKeyUsage=clientAuth
}

kubeconfig() { # kubeconfig NAME FILE: for the client certificate NAME
    (umask 077 && cat >"$2") <<END
apiVersion: v1
kind: Config
clusters: [{name: fixture, cluster: {server: "$API_SERVER", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}}]
contexts: [{name: fixture, context: {cluster: fixture, user: $1}}]
current-context: fixture
END
}

certificate ca /CN=kubernetes-fixture basicConstraints=critical,CA:TRUE keyUsage=critical,keyCertSign,cRLSign,digitalSignature
server_certificate apiserver /CN=kube-apiserver "IP:$NODE_IP,IP:$API_SERVICE_IP,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$DOMAIN"
server_certificate kubelet-server "/O=system:nodes/CN=system:node:$NODE" "IP:$NODE_IP,DNS:$NODE"
client_certificate admin /O=system:masters/CN=admin
client_certificate kube-apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
client_certificate kube-controller-manager /CN=system:kube-controller-manager
client_certificate kube-scheduler /CN=system:kube-scheduler
client_certificate kubelet "/O=system:nodes/CN=system:node:$NODE"
client_certificate kube-proxy /CN=system:kube-proxy
kubeconfig admin "$ADMIN_KUBECONFIG"
for client in kube-controller-manager kube-scheduler kubelet kube-proxy; do kubeconfig "$client" "$CONF/$client"; done
openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/sa.key"
openssl ec -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
