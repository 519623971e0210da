#!/bin/bash
# Makes a Postgres image from the Debian packages of this machine, for places where no image can be pulled.
# usage: .ci/postgres-image.sh TAG
set -euo pipefail
cd "$(dirname "$0")"

tag=${1:?usage: postgres-image.sh TAG}
home=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -type d | sort -V | tail -1) # /usr/lib/postgresql/15
share=/usr/share/postgresql/${home##*/}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# Debian's layout: /bin and the like are links into /usr.
mkdir -p "$root"/{etc,proc,sys,dev,run,var/lib/postgresql,usr/bin,usr/lib,usr/lib64}
for dir in bin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
install -d -m 1777 "$root/tmp"
ln -s /run "$root/var/run"

programs=()
# awk and grep are for testcontainers-go, which looks into /proc/net/tcp for the open port.
for name in awk bash cat chmod chown grep id mkdir setpriv sh sleep; do
  program=$(readlink -f "$(command -v "$name")")
  cp "$program" "$root/usr/bin/$name"
  programs+=("$program")
done

# The JIT compiler is left out: it would bring LLVM, three times the size of the rest.
tar -C / -c --exclude='llvmjit*' --exclude=bitcode --exclude=pgxs \
  "${home#/}" "${share#/}" usr/share/zoneinfo usr/lib/locale/C.utf8 | tar -C "$root" -x
for program in "$home"/bin/*; do ln -s "$program" "$root/usr/bin/"; done

# The libraries of all these, and the loader.
find "$root$home" -type f \( -path '*/bin/*' -o -name '*.so' \) -print0 |
  xargs -0 ldd "${programs[@]}" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | grep -v '^/tmp' | sort -u |
  while read -r library; do
    [ -f "$library" ] || continue # ldd names the files it was asked about, too
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done

cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/:/bin/bash
postgres:x:999:999:postgres:/var/lib/postgresql:/bin/bash
PASSWD
printf 'root:x:0:\npostgres:x:999:\n' >"$root/etc/group"
install -m 755 postgres-entrypoint.sh "$root/usr/bin/docker-entrypoint.sh"

tar -C "$root" --owner=0 --group=0 -c . | docker import \
  --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["postgres"]' --change 'EXPOSE 5432' \
  --change 'ENV PATH=/usr/bin LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data' \
  --change 'VOLUME /var/lib/postgresql/data' - "$tag" >/dev/null
echo "$tag: $(du -sm "$root" | cut -f1) MB from $home"
