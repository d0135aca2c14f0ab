#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Every step of the sandbox is left out once, and a probe must notice. usage: mutations.sh [STEP...]
#
# `trees` is not among them: with root the broker has taken the trees before. Nor is `groups`, which waits for the broker.
#
# The probes unlink, mount, kill and fill, and here one of their walls is missing: so all of it runs
# in a namespace where the root file system is an overlay whose upper layer is thrown away, with
# processes and a network of its own. Root only; `make check-mutations`. PYTHON is that of ./check.
set -u
top=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
python=${PYTHON:-$top/build/check/venv/bin/python}
inside=${HUSK_MUTATIONS_INSIDE:-}

fail() { echo "mutations: $*" >&2; exit 1; }

enter() {
    ((EUID == 0)) || fail "needs root, to throw away what the probes do"
    [[ -x $python ]] || fail "run ./check first: it makes $python"
    # shellcheck disable=SC2016
    exec unshare --mount --pid --fork --net --ipc --uts --propagation private bash -ec '
        t=$(mktemp -d); mount -t tmpfs none "$t"; mkdir "$t"/{upper,work,root}
        mount -t overlay none -o "lowerdir=/,upperdir=$t/upper,workdir=$t/work" "$t/root"
        cd "$t/root"
        mount -t proc none proc; mount --rbind /dev dev; mount --rbind /sys sys
        mkdir -p .old; pivot_root . .old; cd /; umount -l .old
        # An overlay cannot be id-mapped; what is shared with sandboxes lies here.
        mount -t tmpfs -o mode=1777 none /tmp; mount -t tmpfs -o mode=700 none /root
        ip link set lo up
        HUSK_MUTATIONS_INSIDE=1 exec bash "$@"' bash "$(readlink -f "${BASH_SOURCE[0]}")" "$@"
}

# file, table: the names of its steps.
names() { sed -n "/^#define $2(X)/,/[^\\\\]\$/s/^    X(\([a-z_]*\), .*/\1/p" "$1" | tr '\n' ' '; }

# step, or "none": builds husk without it.
build() {
    local define="-DHUSK_SKIP_STEP='\"$1\"'" cc=gcc
    command -v musl-gcc >/dev/null && cc="musl-gcc -idirafter /usr/include -idirafter /usr/include/$(uname -m)-linux-gnu"
    make -C "$work" -s -W "$top/sandbox/build.c" -W "$top/sandbox/join.c" "CPPFLAGS=$define" \
        "INIT_CC=$cc $define" husk-sandbox husk-init && make -C "$work" -s install
}

# Whether some probe fails; prints the first. Left out: what must not have its disk in memory.
is_noticed() {
    local log=$work/$1.log files=(test_smoke.py test_containment.py test_workdir.py test_profiles.py test_limits_and_death.py)
    [[ $1 == none ]] && files+=(test_ladder.py)
    grep -qs "X($1, ALONE" "$top"/sandbox/{build,join}.h && files=(test_ladder.py)
    (cd "$work/tests" && HUSK_PREFIX=$work/prefix timeout 900 "$work/venv/bin/python" -m pytest -x -q --timeout 60 \
        -p no:cacheprovider -k "not may_be_full_at_once" "${files[@]}") >"$log" 2>&1 && return 1
    sed -n 's/^\(FAILED\|ERROR\) tests\/\|^\(FAILED\|ERROR\) /  /p' "$log" | head -n 1
    return 0
}

main() {
    local survived=0 step steps=("$@")
    [[ -n $inside ]] || enter "$@"
    ((${#steps[@]})) || read -ra steps <<<"$(names "$top/sandbox/build.h" BUILD_STEPS | sed 's/\<trees\>//; s/\<groups\>//') $(names "$top/sandbox/join.h" JOIN_STEPS)"
    # Where everybody may go: with containment landlock a sandbox of root's is another user.
    work=$(mktemp -d) && chmod 0755 "$work" && cp -r "${python%/bin/*}" "$work/venv" && cp -r "$top"/{tests,wall} "$work" ||
        fail "no room for the tests"
    (cd "$work" && "$top/configure" -q "--prefix=$work/prefix" && make -s && make -s install) >"$work/log" 2>&1 ||
        fail "husk does not build, see the end of: $(tail -n 5 "$work/log")"
    is_noticed none && fail "a probe fails though no step is missing"
    for step in "${steps[@]}"; do
        echo "without $step"
        build "$step" >"$work/log" 2>&1 || fail "husk does not build: $(tail -n 5 "$work/log")"
        is_noticed "$step" || { echo "  NO PROBE NOTICES"; survived=$((survived + 1)); }
    done
    echo "mutations: ${#steps[@]} steps left out, $survived not noticed"
    ((survived == 0))
}

main "$@"
