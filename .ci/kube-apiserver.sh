#!/bin/bash
# A real Kubernetes API server on loopback, with etcd and without anything that would run pods, for the tests of k8s/:
#
#   eval "$(.ci/kube-apiserver.sh up DIR)"    builds it at the first time (nine minutes of one core), starts it, and prints the
#                                             variables by which the tests find it
#   cd integration/deploy && go test -count=1 -v -run APIServer ./...
#   .ci/kube-apiserver.sh down DIR
#
# For Debian, as root. What is built stays in CACHE, by default ~/.cache/pgsagaz-kube-apiserver; the rest goes under DIR.
set -euo pipefail

version=1.37.2                    # of Kubernetes
libraries=v0.37.2                 # k8s.io/..., which its own go.mod replaces with directories that only its repository has
operator=v0.85.0 keda=v2.20.2       # whose kinds the manifests use

usage() {
  sed -n '2,/^set/ s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

log() { echo "$*" >&2; }

# --- what is needed ---------------------------------------------------------------------------------------------------

# build_apiserver from the modules of a go.mod of its own: it has no business in the product's.
build_apiserver() {
  [ ! -x "$cache/kube-apiserver" ] || return 0
  log "building kube-apiserver $version"
  mkdir -p "$cache/module"
  (
    cd "$cache/module"
    rm -f go.mod go.sum
    go mod init apiserver
    its=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
    grep -oE '^\s+k8s.io/[a-z0-9-]+ v0.0.0$' "$its" | while read -r module _; do
      go mod edit -require="$module@$libraries" -replace="$module=$module@$libraries"
    done
    go mod edit -require="k8s.io/kubernetes@v$version"
    printf '//go:build tools\n\npackage tools\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver"\n' >tools.go
    go mod tidy
    component=k8s.io/component-base/version
    nice go build -o "$cache/kube-apiserver.new" \
      -ldflags="-s -w -X $component.gitVersion=v$version -X $component.gitMajor=${version%%.*} -X $component.gitMinor=$(cut -d. -f2 <<<"$version")" \
      k8s.io/kubernetes/cmd/kube-apiserver
  ) >"$cache/build.log" 2>&1 || { tail -n 20 "$cache/build.log" >&2; return 1; }
  mv "$cache/kube-apiserver.new" "$cache/kube-apiserver"
}

# find_etcd unpacks Debian's, so that no service of it starts.
find_etcd() {
  command -v etcd && return
  if [ ! -x "$cache/etcd/usr/bin/etcd" ]; then
    mkdir -p "$cache/etcd"
    (cd "$cache/etcd" && apt-get update -qq && apt-get download -qq etcd-server && dpkg -x etcd-server_*.deb .) >"$cache/apt.log" 2>&1 ||
      { cat "$cache/apt.log" >&2; return 1; }
  fi
  echo "$cache/etcd/usr/bin/etcd"
}

# fetch_kinds copies the definitions of the operators' kinds out of their modules.
fetch_kinds() {
  [ ! -e "$cache/kinds/done" ] || return 0
  mkdir -p "$cache/kinds"
  local from
  from=$(module_dir "github.com/prometheus-operator/prometheus-operator@$operator")
  cp "$from"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml "$cache/kinds/"
  from=$(module_dir "github.com/kedacore/keda/v2@$keda")
  cp "$from"/config/crd/bases/keda.sh_{scaledobjects,triggerauthentications}.yaml "$cache/kinds/"
  touch "$cache/kinds/done"
}

module_dir() { go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)",/\1/p'; }

# --- processes --------------------------------------------------------------------------------------------------------

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
  local p=$1
  while listens "$p"; do p=$((p + 1)); done
  echo "$p"
}

# launch NAME COMMAND... in a process group of its own, which outlives this script.
launch() {
  local name=$1
  shift
  setsid nohup "$@" >"$dir/$name.log" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
}

runs() { [ -e "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }

halt() {
  if runs "$1"; then
    kill "$(cat "$dir/$1.pid")"
    for _ in {1..300}; do
      runs "$1" || break
      sleep 0.1
    done
    ! runs "$1" || kill -9 "$(cat "$dir/$1.pid")"
  fi
  rm -f "$dir/$1.pid"
}

up() {
  command -v kubectl >/dev/null || { log "kubectl is missing"; return 1; }
  command -v openssl >/dev/null || { log "openssl is missing"; return 1; }
  mkdir -p "$cache" "$dir"
  build_apiserver
  fetch_kinds
  local etcd etcd_port peer_port port token
  etcd=$(find_etcd)
  if ! runs kube-apiserver; then
    halt etcd
    rm -rf "$dir/data"
    # Below the ports that the kernel gives to outgoing connections.
    etcd_port=$(free_port 23790)
    peer_port=$(free_port $((etcd_port + 1)))
    port=$(free_port 26443)
    launch etcd "$etcd" --data-dir "$dir/data" --unsafe-no-fsync --initial-cluster "default=http://127.0.0.1:$peer_port" \
      --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
      --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port"
    token=$(openssl rand -hex 16)
    openssl genrsa -out "$dir/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$dir/accounts.key" -pubout -out "$dir/accounts.pub" 2>/dev/null
    (umask 077 && echo "$token,admin,admin,\"system:masters\"" >"$dir/tokens.csv")
    # ServiceAccount: nothing here makes the accounts that each namespace has by default.
    launch kube-apiserver "$cache/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" \
      --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$port" --cert-dir="$dir/certificates" \
      --service-cluster-ip-range=10.0.0.0/24 --endpoint-reconciler-type=none --disable-admission-plugins=ServiceAccount \
      --service-account-key-file="$dir/accounts.pub" --service-account-signing-key-file="$dir/accounts.key" \
      --service-account-issuer=https://kubernetes.default.svc --token-auth-file="$dir/tokens.csv" --authorization-mode=AlwaysAllow
    cat >"$dir/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: $token}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
YAML
  fi
  for _ in {1..600}; do
    if [ "$(kubectl --kubeconfig "$dir/kubeconfig" get --raw /readyz 2>/dev/null)" = ok ]; then
      echo "export PGSAGAZ_TEST_KUBECONFIG=$dir/kubeconfig PGSAGAZ_TEST_KUBE_KINDS=$cache/kinds"
      return
    fi
    runs kube-apiserver || break
    sleep 0.2
  done
  log "the API server did not start:"
  tail -n 20 "$dir/kube-apiserver.log" >&2
  return 1
}

[ $# = 2 ] || usage
dir=$(realpath -m "$2")
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pgsagaz-kube-apiserver}
case $1 in
  up) up ;;
  down)
    halt kube-apiserver
    halt etcd
    ;;
  *) usage ;;
esac
