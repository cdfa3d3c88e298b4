#!/usr/bin/env bash
# A real kube-apiserver, for which there is no package, in DIRECTORY: from the source of Debian's kubernetes package, whose
# own build makes kubectl alone. Needs apt, Go (Debian's golang is enough), 3 GB of disk and a quarter of an hour.
#   tests/system/kube-apiserver.sh DIRECTORY
#   KUBE_APISERVER=DIRECTORY/kube-apiserver .venv/bin/pytest tests/system/test_stores.py -k kubernetes
set -eu
directory=$(realpath "$1")
kubernetes=$directory/go/src/k8s.io/kubernetes
mkdir -p "$directory/lists/partial" "$(dirname "$kubernetes")"
cd "$directory"
# A list of sources of its own: the machine's stays as it is.
(
    . /etc/os-release
    echo "deb-src http://deb.debian.org/debian $VERSION_CODENAME main" >sources.list
)
apt=(-o "Dir::Etc::sourcelist=$directory/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$directory/lists")
apt-get -qq "${apt[@]}" update
apt-get -qq "${apt[@]}" source --download-only kubernetes
mkdir -p "$kubernetes"
tar xzf kubernetes_*.orig.tar.gz -C "$kubernetes" --strip-components 1
# Its vendor directory is older than what Go's modules ask of one today; a GOPATH asks nothing.
export GOPATH=$directory/go GOCACHE=$directory/cache GO111MODULE=off GOPROXY=off GOFLAGS=
cd "$kubernetes"
# The one generated file that is not in the source.
generator=k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
go build -o "$directory/openapi-gen" "$generator"
described=$(grep -rl '+k8s:openapi-gen=true' --include='*.go' pkg staging/src | grep -v _test.go | xargs -n1 dirname | sort -u |
    grep -vE 'sample-apiserver|code-generator' | sed 's#^staging/src/#k8s.io/kubernetes/vendor/#; s#^pkg/#k8s.io/kubernetes/pkg/#')
"$directory/openapi-gen" -O zz_generated.openapi -h /dev/null -p k8s.io/kubernetes/pkg/generated/openapi \
    --output-base "$directory/go/src" -r "$directory/report" -i "$(paste -sd, <<<"$described")"
go build -o "$directory/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
