#!/usr/bin/env bash
# Build the cpu image for real, start it as it would run in a cluster, and ask it for a tile. Needs root on Debian or
# Ubuntu, and no container engine: the base is made by debootstrap, buildah works in a chroot, and the container is a
# chroot in namespaces of its own: uid 10001, no capability, a root that is read-only, and no network but loopback.
#
#   docker/image-check.sh              BASE_IMAGE=... takes another base than the one made here
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
fail() { echo "image-check: $*" >&2 && exit 1; }
[ "$(id -u)" = 0 ] || fail "needs root, for namespaces and mounts"

missing=()
for program in buildah debootstrap ip; do command -v $program >/dev/null || missing+=("${program/#ip/iproute2}"); done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$(mktemp -d)
container=
finish() {
  [ -z "$container" ] || kill -KILL "$container" 2>/dev/null || true
  images umount -a >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT
export BUILDAH_ISOLATION=chroot
images() { buildah --root "$work/images" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-vfs}" "$@"; }

# 1. A base such as the public Python images are: Debian 12, whose Python is 3.11.
if [ -z "${BASE_IMAGE:-}" ]; then
  BASE_IMAGE=localhost/python:3.11-slim
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" && fail "debootstrap"; }
  rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
  tar -C "$work/base" -cf "$work/base.tar" .
  rm -rf "$work/base"
  printf 'FROM scratch\nADD base.tar /\n' | images bud -q -t $BASE_IMAGE -f - "$work" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" && fail "the base"; }
  rm "$work/base.tar"
  step "a base"
fi

# 2. The image. How this machine reaches the package registries is lent to the build, and must not stay in it.
secrets=()
lend() { [ ! -r "$2" ] || secrets+=(--secret "id=$1,src=$2"); }
lend pip.conf "${PIP_CONFIG_FILE:-/etc/pip.conf}"
lend npmrc "$HOME/.npmrc"
lend ca "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
images bud --format docker "${secrets[@]}" --build-arg BASE_IMAGE="$BASE_IMAGE" --target cpu -t smalti:cpu \
  -f docker/Dockerfile . >"$work/log" 2>&1 || { tail -n 40 "$work/log" && fail "the build"; }
root=$(images mount "$(images from --pull-never smalti:cpu)")
for lent in etc/pip.conf root/.npmrc run/secrets; do [ ! -e "$root/$lent" ] || fail "/$lent stayed in the image"; done
step "the image: $(du -sm "$root" | cut -f1) MB unpacked, $(du -sm "$root/opt/smalti" | cut -f1) MB of it above the base"

# 3. Run it as its own configuration says.
setting() { images inspect --type image smalti:cpu | python3 -c "
import json, sys
config = json.load(sys.stdin)['Docker']['config']
print(*(config.get('$1') or ()), sep='\n') if '$1' != 'User' else print(config['User'])"; }
[ "$(setting User)" = 10001:10001 ] || fail "the image runs as $(setting User)"
mapfile -t env < <(setting Env)
mapfile -t entrypoint < <(setting Entrypoint)
mapfile -t command < <(setting Cmd)
install -d -o 10001 -g 10001 "$work/data"
cat >"$work/inside" <<'END'
set -e
root=$1 data=$2
shift 2
ip link set lo up
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
cd "$root/data"
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all env -C /data -i "$@"
END
start() { # start ARGUMENT...: the entry point with these arguments, in the background; its process is $container
  unshare --mount --pid --net --ipc --uts --fork --propagation private \
    sh "$work/inside" "$root" "$work/data" "${env[@]}" "${entrypoint[@]}" "$@" >"$work/log" 2>&1 &
  parent=$!
  for _ in $(seq 300); do
    container=$(tr -d ' ' 2>/dev/null </proc/$parent/task/$parent/children) && [ -n "$container" ] && return
    sleep 0.1
  done
  fail "nothing started"
}
inside() { nsenter --target "$container" --mount --net --pid --root --wd -- /usr/bin/env -i "${env[@]}" "$@"; }

start demo --no-serve
wait $parent || { tail -n 20 "$work/log" && fail "smalti demo --no-serve"; }
step "smalti demo made its world"

start "${command[@]}"
for _ in $(seq 120); do
  inside python /opt/probe.py /readyz 2>"$work/said" && ready=yes && break
  [ -d /proc/"$container" ] || break
  sleep 0.5
done
[ -n "${ready:-}" ] || { tail -n 20 "$work/log" "$work/said" && fail "not ready"; }
step "ready: ${entrypoint[*]} ${command[*]}"
inside python /opt/probe.py /livez
! inside touch /opt/smalti/x 2>/dev/null || fail "the root is not read-only"
tile=/datasets/demo/2024/tiles/WebMercatorQuad/13/4148/2602.png
nsenter --target "$container" --net python3 - $tile "${1:-}" <<'END'
import sys, urllib.request
answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://127.0.0.1:8000" + sys.argv[1])
picture = answer.read()
assert answer.headers["Content-Type"] == "image/png" and picture.startswith(b"\x89PNG"), picture[:80]
assert len(picture) > 10_000, f"a tile of {len(picture)} bytes shows nothing"
if sys.argv[2]:
    open(sys.argv[2], "wb").write(picture)
END
step "a tile${1:+, kept as $1}"
kill -TERM "$container"
wait $parent || fail "it did not end well when told to stop"
container=
step "stopped; done"
