#!/bin/bash
# Makes the image that the Dockerfile builds in, out of this machine's Go and module cache, for places where no image can be pulled
# and no module proxy can be reached: docker build --network none --build-arg BUILDER=TAG
# usage: .ci/builder-image.sh TAG
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${1:?usage: builder-image.sh TAG}
root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT

mkdir -p "$root"/{etc/ssl/certs,proc,sys,dev,root,src,usr/bin,usr/lib,usr/lib64,usr/local/go,go/proxy}
for dir in bin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
install -d -m 1777 "$root/tmp"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

cp -L /bin/bash "$root/usr/bin/sh" # for RUN
ldd /bin/bash | grep -oE '/[^ ]+\.so[^ ]*' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done

go=$(go env GOROOT)
tar -C "$go" -c --exclude=./test --exclude=./doc --exclude=./api --exclude=./misc --exclude='*_test.go' --exclude=testdata . |
  tar -C "$root/usr/local/go" -x

# The modules of go.mod as a module proxy in files.
go mod download
modules=$(go env GOMODCACHE)
GOMODCACHE=$root/tmp/modules GOPROXY=file://$modules/cache/download GOSUMDB=off GOFLAGS=-modcacherw go mod download
mv "$root/tmp/modules/cache/download" "$root/go/proxy/"
rm -rf "$root/tmp/modules"

tar -C "$root" --owner=0 --group=0 -c . | docker import \
  --change 'ENV PATH=/usr/local/go/bin:/usr/bin HOME=/root GOPATH=/go GOTOOLCHAIN=local GOSUMDB=off GOPROXY=file:///go/proxy/download' - "$tag" >/dev/null
echo "$tag: $(du -sm "$root" | cut -f1) MB, $(go env GOVERSION)"
