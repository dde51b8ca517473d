#!/bin/bash
# Builds a real Xen host for QEMU out of Debian 12 packages: Xen, a kernel, an initramfs for domain 0
# with Debian's toolstack, and one for a guest. Nothing is installed on this machine: packages are
# downloaded and unpacked into $XEN_VM_DIR (default: target/xen-vm). Done once; a second call
# returns at once.
set -euo pipefail
cd "$(dirname "$0")"
vm=${XEN_VM_DIR:-../../target/xen-vm}
mkdir -p "$vm" && vm=$(realpath "$vm")
here=$PWD

kernel_package=$(apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: //p')
xen_packages="xen-hypervisor-4.17-amd64 $kernel_package"
dom0_packages="xen-utils-4.17 xenstore-utils busybox-static dash bash coreutils procps util-linux mount sed
    grep kmod sysvinit-utils"
qemu_packages="qemu-system-x86 cpio"

# The image is current if it was built by these very files.
stamp=$vm/built
recipe=$(cat build-image.sh dom0-init guest-init | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" != "$recipe" ] || exit 0
rm -f "$stamp"

# apt-get resolves the closure of packages as if nothing were installed, and verifies signatures.
apt() {
    apt-get -q -o Dir::State::status=/dev/null -o APT::Install-Recommends=false \
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Dir::Cache::archives="$vm/debs" "$@"
}

# The files of a closure, as apt-get names them; it leaves out what it finds downloaded.
closure() { # package...
    mkdir -p "$vm/nothing/partial"
    apt -o Dir::Cache::archives="$vm/nothing" install -y --print-uris "$@" |
         sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p"
}

# An empty root whose /bin, /sbin and /lib are links into /usr, as in Debian.
empty_root() { # root
    local dir
    rm -rf "$1"
    mkdir -p "$1"/{proc,sys,dev,run,tmp} "$1"/usr/{bin,sbin,lib/x86_64-linux-gnu,lib64}
    for dir in bin sbin lib lib64; do ln -s usr/$dir "$1/$dir"; done
}

# Unpacks a closure into a root.
unpack() { # root package...
    local root=$1 deb
    shift
    empty_root "$root"
    closure "$@" >"$root.list"
    while read -r deb; do
        dpkg-deb --fsys-tarfile "$vm/debs/$deb" | tar -x --keep-directory-symlink -C "$root"
    done <"$root.list"
}

echo "== packages"
mkdir -p "$vm/debs/partial"
# shellcheck disable=SC2086 # lists of packages
{
    apt install -y --download-only $xen_packages $dom0_packages $qemu_packages >"$vm/apt.log"
    unpack "$vm/qemu" $qemu_packages
    unpack "$vm/dom0" $dom0_packages
}
release=${kernel_package#linux-image-}
rm -rf "${vm:?}/boot" && mkdir "$vm/boot"
for package in $xen_packages; do dpkg -x "$vm/debs/$package"_*.deb "$vm/boot"; done

echo "== Xen and the kernel"
gunzip -c "$vm/boot/boot/xen-4.17-amd64.gz" >"$vm/xen"
# Unpacked here, because an emulated machine takes long over it: the kernel is the xz stream that
# follows the loader.
image=$vm/boot/boot/vmlinuz-$release
offset=$(LC_ALL=C grep -abom1 $'\xfd7zXZ\x00' "$image" | head -1 | cut -d: -f1)
{ tail -c +$((offset + 1)) "$image" | xz -dc --single-stream; } >"$vm/vmlinux" 2>/dev/null || true
[ "$(head -c 4 "$vm/vmlinux")" = $'\x7fELF' ] || { echo "no vmlinux in $image" >&2; exit 1; }

# Runs a program of an unpacked root with that root's own libraries, under the name $2.
from_root() { # root name file argument...
    local root=$1 name=$2 file=$3
    shift 3
    "$root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --argv0 "$name" \
        --library-path "$root/lib/x86_64-linux-gnu" "$root/$file" "$@"
}

# Copies kernel modules with what they need into the same place of another root.
from_root "$vm/dom0" depmod bin/kmod -b "$vm/boot" "$release"
modules() { # root module...
    local root=$1 name file
    shift
    for name in "$@"; do
        from_root "$vm/dom0" modprobe bin/kmod -d "$vm/boot" -S "$release" --show-depends "$name" |
            while read -r verb file _; do
                [ "$verb" = insmod ] || continue
                mkdir -p "$root/lib/modules/$release"
                cp "$file" "$root/lib/modules/$release/"
            done
    done
    cp "$vm"/boot/lib/modules/"$release"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$release/"
    from_root "$vm/dom0" depmod bin/kmod -b "$root" "$release"
}

# Everything below $1 as an archive that the kernel unpacks, owned by root.
archive() { (cd "$1" && find . | from_root "$vm/qemu" cpio bin/cpio --quiet -o -H newc -R 0:0); }

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
    "$dom0"/usr/lib/python3* "$dom0"/usr/lib/xen-4.17/boot
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
