#!/bin/sh
# install.sh BUILD_DIR WORK_DIR LIBDIR: installs with DESTDIR, checks the names, and moves the tree
# to another place, so that whoever uses it proves that it can be moved.
set -eu
build=$1 work=$2 libdir=$3
rm -rf "$work"
mkdir -p "$work"
DESTDIR=$work/staged cmake --install "$build" --prefix /opt/somewhere >"$work/log"
mv "$work/staged/opt/somewhere" "$work/moved"
cd "$work/moved"

fail() {
    echo "$1" >&2
    exit 1
}
for file in "$libdir/libmooncake.so" "$libdir/libmooncake.a" include/mooncake.h \
    "$libdir/pkgconfig/mooncake.pc" "$libdir/cmake/mooncake/mooncakeConfig.cmake" \
    "$libdir/cmake/mooncake/mooncakeConfigVersion.cmake"; do
    [ -e "$file" ] || fail "not installed: $file"
done
version=$(sed -n 's/^#define MC_VERSION_STRING "\(.*\)"/\1/p' include/mooncake.h)
abi=$(sed -n 's/^#define MC_ABI_VERSION //p' include/mooncake.h)
soname=libmooncake.so.$abi
file=$soname.${version#*.}
[ -f "$libdir/$file" ] && [ ! -L "$libdir/$file" ] || fail "$file is not the library itself"
[ "$(readlink "$libdir/$soname")" = "$file" ] || fail "$soname does not lead to $file"
[ "$(readlink "$libdir/libmooncake.so")" = "$soname" ] || fail "libmooncake.so: wrong link"
for name in libtransfer_engine.so libmooncake_store.so; do
    [ "$(readlink "$libdir/$name")" = "$soname" ] || fail "$name: wrong link"
    cmp -s "$libdir/libmooncake.so" "$libdir/$name" || fail "$name: a broken link"
done
if grep -rl /opt/somewhere "$libdir/pkgconfig" "$libdir/cmake"; then
    fail "these files know the prefix they were installed to"
fi
if grep -rl "$build" "$libdir/pkgconfig" "$libdir/cmake" include; then
    fail "these files know the build folder"
fi
