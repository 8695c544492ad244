#!/bin/sh
# header_matrix.sh COMPILER INCLUDE_DIR WORK_DIR: the header under every standard, alone, twice in
# one file, and from two files linked together.
set -eu
compiler=$1 include=$2 work=$3
case $compiler in
    gcc) cxx=g++ ;;
    clang) cxx=clang++ ;;
esac
for program in "$compiler" "$cxx"; do
    if ! command -v "$program" >/dev/null; then
        echo "SKIPPED: $program is not installed"
        exit 77
    fi
done
rm -rf "$work"
mkdir -p "$work"
cd "$work"

flags="-Wall -Wextra -Werror -pedantic -Wundef -Wconversion -I $include"
echo '#include "mooncake.h"' >alone.c
echo '#include "mooncake/transfer_engine_c.h"' >upstream.c
printf '#include "%s"\n' mooncake.h mooncake/transfer_engine_c.h mooncake.h \
    mooncake/transfer_engine_c.h >twice.c
cat >one.c <<'END'
#include "mooncake.h"
mc_status_t two(const mc_request_t *request);
mc_status_t two(const mc_request_t *request) {
    return request->operation == MC_WRITE ? MC_OK : MC_ERR_INVALID_ARGUMENT;
}
END
cat >main.c <<'END'
#include "mooncake.h"
#ifdef __cplusplus
extern "C++"
#endif
mc_status_t two(const mc_request_t *request);
int main(void) {
    mc_request_t request = {MC_WRITE, 0, 0, 1, 2, 3};
    uint32_t spin_us = MC_SPIN_NEVER;
    uint32_t access = MC_ACCESS_REMOTE_ALL;
    return two(&request) == MC_OK && spin_us > access ? 0 : 1;
}
END

count=0
for standard in c99 c11 c17 c++11 c++17 c++20; do
    case $standard in
        c++*) driver="$cxx -x c++" ;;
        *) driver="$compiler -x c" language="-Wstrict-prototypes -Wmissing-prototypes" ;;
    esac
    case $standard in c++*) language="" ;; esac
    for file in alone upstream twice one main; do
        # shellcheck disable=SC2086
        $driver -std=$standard $flags $language -c $file.c -o $file.o
        count=$((count + 1))
    done
    case $standard in
        c++*) $cxx one.o main.o -o linked ;;
        *) $compiler one.o main.o -o linked ;;
    esac
    ./linked
done
echo "$compiler: $count files compiled"
