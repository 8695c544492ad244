#!/bin/sh
# relink.sh LIBRARY_A INCLUDE WORK_DIR LIBRARIES...: links the static library into a shared one with
# the version script, as release artefacts do, and checks that exactly the promised names come out,
# each in its version node.
set -eu
archive=$1 include=$2 work=$3
shift 3
rm -rf "$work"
mkdir -p "$work"
${CC:-cc} -shared -o "$work/libmooncake.so" -Wl,--whole-archive "$archive" \
    -Wl,--no-whole-archive -Wl,--version-script="$include/mooncake.map" \
    -Wl,-soname,libmooncake.so.0 -Wl,--gc-sections "$@"
nm -D --defined-only "$work/libmooncake.so" | awk '$2 == "T" { print $3 }' | sort >"$work/exported"
node=$(sed -n 's/^\(MOONCAKE_[0-9.]*\) {.*/\1/p' "$include/mooncake.map" | head -n 1)
sed "s/\$/@@$node/" "$include/mooncake.symbols" | sort >"$work/promised"
if ! diff "$work/promised" "$work/exported"; then
    echo "the relinked library does not export what was promised" >&2
    exit 1
fi
