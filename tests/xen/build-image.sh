#!/bin/bash
# Builds a real Xen host for QEMU from Debian packages: Xen, a kernel, an initramfs for domain 0 with Debian's
# toolstack, and one for a guest. Installs nothing on this machine: packages are downloaded and unpacked into
# $XEN_VM_DIR (default: target/xen-vm). If the image is current, returns at once. XEN_VM_DEBIAN: the release, bookworm
# (the default) or trixie, which gets a directory of its own.
set -euo pipefail
cd "$(dirname "$0")"
. ./packages
here=$PWD
case $debian in
bookworm) xen=4.17 magic=$'\xfd7zXZ' decompress="xz -dc --single-stream" ;;
trixie) xen=4.20 magic=$'\x28\xb5\x2f\xfd' decompress="from_root $vm/qemu zstd bin/zstd -dc" ;;
*) echo "unknown version of Xen in Debian $debian" >&2; exit 1 ;;
esac

# The image is current if these same files built it.
stamp=$vm/built
recipe=$(cat packages build-image.sh dom0-init guest-init | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" != "$recipe" ] || exit 0
rm -f "$stamp"

echo "== packages"
update
kernel_package=$(apt-cache "${sources[@]}" depends linux-image-amd64 | sed -n 's/ *Depends: //p')
xen_packages="xen-hypervisor-$xen-amd64 $kernel_package"
dom0_packages="xen-utils-$xen xenstore-utils busybox-static dash bash coreutils procps util-linux mount sed
    grep kmod sysvinit-utils"
qemu_packages="qemu-system-x86 cpio zstd"
# shellcheck disable=SC2086 # lists of packages
{
    download $xen_packages $dom0_packages $qemu_packages
    make_root "$vm/qemu" $qemu_packages
    make_root "$vm/dom0" $dom0_packages
}
release=${kernel_package#linux-image-}
empty_root "$vm/boot"
# Their dependencies would make a bootable disk, which is not needed.
for package in $xen_packages; do unpack "$vm/boot" "$(closure "$package" | grep -F "${package}_")"; done

echo "== Xen and the kernel"
gunzip -c "$vm/boot/boot/xen-$xen-amd64.gz" >"$vm/xen"
# Unpacked here, because that takes an emulated machine long. The kernel is the compressed stream after the loader; the
# decompressor reports what follows the stream as an error.
image=$vm/boot/boot/vmlinuz-$release
offset=$(LC_ALL=C grep -abom1 -F "$magic" "$image" | head -1 | cut -d: -f1)
{ tail -c +$((offset + 1)) "$image" | $decompress; } >"$vm/vmlinux" 2>/dev/null || true
[ "$(head -c 4 "$vm/vmlinux")" = $'\x7fELF' ] || { echo "no vmlinux in $image" >&2; exit 1; }

# Copies kernel modules with their dependencies to the same place of another root.
from_root "$vm/dom0" depmod bin/kmod -b "$vm/boot" "$release"
modules() { # root module...
    local root=$1 name file
    shift
    for name in "$@"; do
        from_root "$vm/dom0" modprobe bin/kmod -d "$vm/boot" -S "$release" --show-depends "$name" |
            while read -r verb file _; do
                [ "$verb" = insmod ] || continue
                mkdir -p "$root/lib/modules/$release"
                case $file in # The guest's modprobe is busybox's.
                *.xz) xz -dc "$file" >"$root/lib/modules/$release/$(basename "$file" .xz)" ;;
                *) cp "$file" "$root/lib/modules/$release/" ;;
                esac
            done
    done
    cp "$vm"/boot/lib/modules/"$release"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$release/"
    from_root "$vm/dom0" depmod bin/kmod -b "$root" "$release"
}

echo "== the guest"
guest=$vm/guest
empty_root "$guest"
modules "$guest" xen-blkfront xen-netfront xenfs xen-evtchn
cp "$vm/dom0/bin/busybox" "$guest/bin/"
for tool in sh mount mkdir modprobe cat echo sleep; do ln -s busybox "$guest/bin/$tool"; done
cp "$vm"/dom0/usr/bin/xenstore{,-exists,-read,-write,-watch,-list} "$guest/bin/"
# xenstore-watch cancels a thread, for which the C library loads libgcc_s.
libs="ld-linux-x86-64.so.2 libc.so.6 libgcc_s.so.1 libxenstore.so.4 libxentoolcore.so.1"
for lib in $libs; do
    cp -L "$vm/dom0/lib/x86_64-linux-gnu/$lib" "$guest/lib/x86_64-linux-gnu/"
done
ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$guest/usr/lib64/"
install -m 755 "$here/guest-init" "$guest/init"
printf '#!/bin/sh\nexec busybox poweroff -f\n' >"$guest/sbin/poweroff"
chmod 755 "$guest/sbin/poweroff"

echo "== domain 0"
dom0=$vm/dom0
rm -rf "$dom0"/usr/share/{doc,man,locale,info,perl,lintian,bug,zoneinfo,i18n} "$dom0"/usr/lib/udev \
    "$dom0"/usr/lib/x86_64-linux-gnu/{perl,perl-base,gconv,libperl*} "$dom0"/usr/bin/perl* \
    "$dom0"/usr/lib/python3* "$dom0/usr/lib/xen-$xen/boot"
modules "$dom0" xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs xen-netback xen-blkback loop
mkdir -p "$dom0"/{test,guest,var/log/xen,var/lib/xen,var/run/xen}
# Debian's start script needs dash: busybox's shell would use its own start-stop-daemon.
ln -sf dash "$dom0/bin/sh"
cp "$dom0/usr/share/xen-utils-common/default.xen" "$dom0/etc/default/xen"
install -m 755 "$here/dom0-init" "$dom0/init"
cp "$vm/vmlinux" "$dom0/guest/vmlinux"
archive "$guest" >"$dom0/guest/initramfs"
archive "$dom0" >"$vm/dom0.cpio"
echo "$recipe" >"$stamp"
du -hL "$vm/dom0.cpio" "$vm/vmlinux" "$vm/xen"
