#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The direction of includes, and what each program may link. Says what is wrong; status 1.
cd "$top_srcdir" || exit 1
status=0
fail() {
    echo "$*"
    status=1
}

# directory: directories of ours that it may include
allow() {
    dir=$1
    shift
    for file in "$dir"/*.c "$dir"/*.h; do
        [ -e "$file" ] || continue
        for included in $(sed -n 's/^#include "\([a-z]*\)\/.*/\1/p' "$file" | sort -u); do
            case " $* " in
            *" $included "*) ;;
            *) fail "$file must not include $included/" ;;
            esac
        done
    done
}
allow base base
allow wall base wall
allow sandbox base wall sandbox
allow kernel base wall kernel
allow agent base wall agent
allow cli base wall kernel cli
allow serve base wall kernel serve
allow image base wall sandbox image
allow container base wall sandbox container
allow interpreter base wall interpreter

# Nothing in sandbox/ knows Jupyter, nothing in kernel/ knows namespaces.
if grep -nEi 'jupyter|zmq|iopub|hmac|json' sandbox/*.c sandbox/*.h sandbox/*.def | grep -v 'knows nothing of Jupyter' |
    grep -v 'the usual end of a Jupyter' | grep -v '^[^:]*:[0-9]*: \* kernel'; then
    fail "sandbox/ knows Jupyter"
fi
if grep -nE 'CLONE_NEW|unshare|pivot_root|setns|<sched.h>|mount\(' kernel/*.c kernel/*.h; then
    fail "kernel/ knows namespaces"
fi

# program: libraries that it may need
links() {
    program=$top_builddir/$1
    shift
    [ -e "$program" ] || { fail "$program is not built"; return; }
    for library in $(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\.so.*/\1/p'); do
        case " $* " in
        *" $library "*) ;;
        *) fail "$program must not link $library" ;;
        esac
    done
}
sanitizers="libasan libubsan libm libdl librt libpthread libgcc_s libresolv"
case $(readelf -d "$top_builddir/husk-sandbox" 2>/dev/null) in
*lib*san*|*libgcc_s*) ;;
*) sanitizers= ;;
esac
links husk-init
links husk-agent
links husk-loopback
[ ! -e "$top_builddir/husk-thaw" ] || links husk-thaw
links husk-sandbox libc ld-linux-x86-64 $sanitizers
links husk-network libc libcares ld-linux-x86-64 $sanitizers
links husk-ports libc ld-linux-x86-64 $sanitizers
links husk-scope libc libsystemd ld-linux-x86-64 $sanitizers
links husk-docker libc libcurl libjansson ld-linux-x86-64 $sanitizers
links husk-unpack libc libarchive libjansson libcrypto ld-linux-x86-64 $sanitizers
links husk-serve libc libmicrohttpd libgnutls libwslay libsodium libjansson ld-linux-x86-64 $sanitizers
links _husk.abi3.so libc ld-linux-x86-64
links husk-kernel libc libjansson libsodium libsqlite3 ld-linux-x86-64 $sanitizers
links husk-launch libc libjansson libsodium libcrypto ld-linux-x86-64 $sanitizers
links husk libc libjansson libsodium ld-linux-x86-64 $sanitizers
exit $status
