#!/bin/sh
# build.sh WAY PREFIX WORK_DIR LIBDIR: builds the consumer against an installed tree and runs it.
# WAY: cmake, pkg-config, cc, static (pkg-config --static) or subproject (add_subdirectory).
set -eu
way=$1 prefix=$2 work=$3 libdir=$4
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"
cc=${CC:-cc}
cxx=${CXX:-c++}
strict="-Wall -Wextra -Werror"

need() {
    if ! command -v "$1" >/dev/null; then
        echo "SKIPPED: $1 is not installed"
        exit 77
    fi
}

run() {
    "$@"
    echo "ran: $*"
}

case $way in
    cmake)
        cmake -S "$here" -B "$work" -DCMAKE_PREFIX_PATH="$prefix" >"$work.log"
        cmake --build "$work" >>"$work.log"
        for program in consumer consumer_cpp consumer_static; do run "$work/$program"; done
        # A version that was never there is refused.
        if cmake -S "$here" -B "$work/newer" -DCMAKE_PREFIX_PATH="$prefix" -DWANTED=99 \
            >>"$work.log" 2>&1; then
            echo "version 99 was found" >&2
            exit 1
        fi
        ;;
    subproject)
        # cargo's folder is shared with the build under test: nothing is compiled twice.
        tree=$(cd "$here/../.." && pwd)
        CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tree/target} cmake -S "$here" -B "$work" \
            -DCMAKE_BUILD_TYPE=Release -DMOONCAKE_TREE="$tree" >"$work.log"
        CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tree/target} cmake --build "$work" >>"$work.log"
        for program in consumer consumer_cpp consumer_static; do run "$work/$program"; done
        ;;
    pkg-config)
        need pkg-config
        export PKG_CONFIG_PATH="$prefix/$libdir/pkgconfig"
        # shellcheck disable=SC2046
        $cc $strict "$here/consumer.c" $(pkg-config --cflags --libs mooncake) -o "$work/consumer"
        # shellcheck disable=SC2046
        $cxx -std=c++17 $strict "$here/consumer.cpp" $(pkg-config --cflags --libs mooncake) \
            -o "$work/consumer_cpp"
        for program in consumer consumer_cpp; do
            run env LD_LIBRARY_PATH="$prefix/$libdir" "$work/$program"
        done
        ;;
    static)
        need pkg-config
        export PKG_CONFIG_PATH="$prefix/$libdir/pkgconfig"
        private=$(pkg-config --libs --static mooncake | sed 's/-lmooncake/-l:libmooncake.a/')
        # shellcheck disable=SC2046,SC2086
        $cc $strict $(pkg-config --cflags mooncake) "$here/consumer.c" $private \
            -o "$work/consumer"
        run "$work/consumer"
        ;;
    cc)
        $cc $strict -I"$prefix/include" "$here/consumer.c" -L"$prefix/$libdir" -lmooncake \
            -Wl,-rpath,"$prefix/$libdir" -o "$work/consumer"
        run "$work/consumer"
        # A program of the upstream library, with that library's name.
        $cc $strict -I"$prefix/include/mooncake" "$here/../upstream_alone.c" \
            -L"$prefix/$libdir" -ltransfer_engine -Wl,-rpath,"$prefix/$libdir" -o "$work/upstream"
        run "$work/upstream"
        # One of the upstream store: its header alone, and both names at once, as its bindings link.
        printf '%s\n' '#include "store_c.h"' 'int main(void) {' \
            'mooncake_store_t made = mooncake_store_create();' 'mooncake_store_destroy(made);' \
            'return made == 0 || mooncake_store_health_check(made) == 0; }' >"$work/store.c"
        $cc $strict -I"$prefix/include/mooncake" "$work/store.c" -L"$prefix/$libdir" \
            -lmooncake_store -ltransfer_engine -Wl,-rpath,"$prefix/$libdir" -o "$work/store"
        run "$work/store"
        ;;
    *)
        echo "unknown way $way" >&2
        exit 2
        ;;
esac
