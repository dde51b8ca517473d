#!/bin/bash
# Installs what load is compared with, Debian's xenstored and oxenstored of Xen 4.17, and builds the
# library that lets them run without a hypervisor. Nothing here is needed to build or run the daemon.
#
#     loadgen/install-peers.sh            as root if the packages are not there yet
#
# It may be run again at any time. CARGO names another cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly programs=/usr/lib/xen-4.17/bin

missing=()
[[ -x $programs/xenstored && -x $programs/oxenstored ]] || missing+=(xen-utils-4.17)
command -v xenstore-ls >/dev/null || missing+=(xenstore-utils)
if ((${#missing[@]})); then
    # Packages of a hypervisor start services when they are installed; here they are to do nothing.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -q
    apt-get install -qy --no-install-recommends "${missing[@]}"
fi

"${CARGO:-cargo}" build --release -p xenstored-shim
version=$(dpkg-query -W -f '${Version}' xen-utils-4.17 2>/dev/null) || version="of no package"
echo "the peers are in $programs ($version), their library is target/release/libxenstored_shim.so"
