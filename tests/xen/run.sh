#!/bin/bash
# Starts a real Xen in QEMU and runs checks in its domain 0. See README.md.
#
#   run.sh                    Debian's own C xenstored: shows that the checks are fair
#   run.sh BINARY             BINARY as the host's xenstored, and the xsctl beside it
#   run.sh --systemd BINARY   BINARY started by systemd, with the unit of dist/
#   run.sh --probe BINARY     the example host_probe, beside a running xenstored and alone
#
# The exit status is 0 if every check passed. XEN_VM_DEBIAN: the release of Xen, kernel and toolstack (bookworm;
# trixie). XEN_VM_DIR: the directory of image and logs (target/xen-vm, target/xen-vm-trixie). XEN_VM_CPUS: domain 0's
# processors (1). XEN_VM_TIMEOUT: seconds after which QEMU is ended (1200).
set -euo pipefail
tests=$(realpath "$(dirname "$0")")
cpus=${XEN_VM_CPUS:-1}

checks=("$tests/checks"/*) archives=() mode=${1-}
case $mode in
--probe) checks=("$tests/probe/run"); shift ;;
--systemd) checks=("$tests/systemd/run" "$tests/checks/lib"); shift ;;
esac
vm=$(cd "$tests" && . ./packages && echo "$vm")
exec 9>"$vm/lock" && flock 9 # One run at a time: the machine has no room for two.
"$tests/build-image.sh"
if [ "$mode" = --systemd ]; then
    "$tests/build-systemd.sh"
    archives=("$vm/systemd.cpio")
fi
# Programs of the unpacked QEMU run with its own libraries.
libs=$vm/qemu/lib/x86_64-linux-gnu
loader=("$libs/ld-linux-x86-64.so.2" --library-path "$libs")

# The programs under test go into an archive of their own, which the kernel unpacks over the first.
run=$(mktemp -d "$vm/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
mkdir -p "$run/root/test"
install -m 755 "$tests/hotplug" "${checks[@]}" "$run/root/test"
if [ "$mode" = --systemd ]; then cp -r "$tests/../../dist" "$run/root/test"; fi
if [ $# -gt 0 ]; then install -m 755 -s "$1" "$run/root/test/$(basename "$1")"; fi
if [ "$(basename "${1-}")" = xenstored ]; then install -m 755 -s "$(dirname "$1")/xsctl" "$run/root/test"; fi
(cd "$run/root" && find . | "${loader[@]}" "$vm/qemu/bin/cpio" --quiet -o -H newc -R 0:0) >"$run/test.cpio"
cat "$vm/dom0.cpio" "${archives[@]}" "$run/test.cpio" >"$run/initramfs"

# Westmere, because domain 0 dies at once with SMAP, and guests' processes crash at random with AVX. QEMU takes commas
# as separators of modules, so the kernels' arguments have none (Xen's own are not modules).
log=$vm/serial.log
: >"$log"
start=$SECONDS
QEMU_MODULE_DIR=$libs/qemu timeout "${XEN_VM_TIMEOUT:-1200}" "${loader[@]}" \
    "$vm/qemu/usr/bin/qemu-system-x86_64" \
    -L "$vm/qemu/usr/share/qemu" -L "$vm/qemu/usr/share/seabios" \
    -accel tcg,thread=multi,tb-size=512 -cpu Westmere -m 3072 -smp "$cpus" \
    -no-reboot -nodefaults -display none -serial "file:$log" -kernel "$vm/xen" \
    -append "console=com1 com1=115200 dom0_mem=1024M,max:1024M dom0_max_vcpus=$cpus \
        spec-ctrl=no xpti=no ucode=no" \
    -initrd "$vm/vmlinux console=hvc0 mitigations=off quiet panic=1,$run/initramfs" &
qemu=$!
tail -n +1 -f "$log" --pid="$qemu" | sed -un 's|\r||; /^dom0: up/,$p' || true
wait "$qemu" || echo "QEMU ended with status $?"
echo "$((SECONDS - start)) s in QEMU; the console is in $log"
grep -Eq '^[1-9][0-9]* passed, 0 failed' <(tr -d '\r' <"$log")
