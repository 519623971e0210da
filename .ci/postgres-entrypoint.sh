#!/bin/bash
# The part of the official Postgres image's entrypoint that the tests rely on: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, and
# a first start without TCP, so that "ready to accept connections" is logged twice and the second time counts.
set -euo pipefail

data=${PGDATA:-/var/lib/postgresql/data}
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [ "$(id -u)" = 0 ]; then # Postgres refuses root
  mkdir -p "$data" /run/postgresql
  chown postgres:postgres "$data" /run/postgresql
  chmod 700 "$data"
  exec setpriv --reuid=postgres --regid=postgres --clear-groups -- "$0" "$@"
fi

if [ ! -s "$data/PG_VERSION" ]; then
  if [ -z "${POSTGRES_PASSWORD:-}" ]; then
    echo "POSTGRES_PASSWORD is not set" >&2
    exit 1
  fi
  initdb --pgdata="$data" --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
  pg_ctl --pgdata="$data" --options="-c listen_addresses=''" --wait start
  if [ "$database" != postgres ]; then
    psql --username="$user" --dbname=postgres --no-psqlrc --set=ON_ERROR_STOP=1 --set=name="$database" <<<'CREATE DATABASE :"name";'
  fi
  pg_ctl --pgdata="$data" --mode=fast --wait stop
fi

exec "$@" -D "$data" -c listen_addresses='*'
