#!/bin/bash
# Builds what a domain 0 with systemd as its first process needs in addition to build-image.sh's image: an archive of
# Debian's systemd, which the kernel unpacks over the other one. /test/run is a service there.
set -euo pipefail
cd "$(dirname "$0")"
. ./packages

root=$vm/systemd
stamp=$vm/built-systemd
recipe=$(cat build-systemd.sh "$vm/built" | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" != "$recipe" ] || exit 0
rm -f "$stamp"

echo "== systemd"
download systemd
empty_root "$root"
# shellcheck disable=SC2046 # names without spaces
unpack "$root" $(closure systemd | grep -vxFf "$vm/dom0.list")
rm -rf "$root"/usr/share/{doc,man,locale,bash-completion,zsh}
units=$root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants" "$root/etc/modules-load.d"
ln -sf usr/lib/systemd/systemd "$root/init"
# Without it systemd takes this for the first boot, and asks for the time zone.
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
printf '%s\n' xen-{evtchn,gntdev,gntalloc,privcmd,netback,blkback} xenfs loop \
    >"$root/etc/modules-load.d/xen.conf"
ln -s /usr/lib/systemd/system/multi-user.target "$units/default.target"
ln -s /dev/null "$units/getty.target" # The console is for the checks.
ln -s ../check.service "$units/multi-user.target.wants/"
cat >"$units/check.service" <<'UNIT'
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
ExecStart=/test/run
# QEMU runs with -no-reboot and ends
ExecStopPost=/bin/busybox reboot -f
UNIT
archive "$root" >"$vm/systemd.cpio"
echo "$recipe" >"$stamp"
