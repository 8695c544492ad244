# Sourced by run: the wheel for aarch64, built here with cargo-zigbuild, and used by Debian's own Python of that
# machine under qemu. The master beside it is this machine's.

wheel_glibc=2.28
# What the emulated interpreter needs of Debian, besides the packages that carry its version in their name.
wheel_packages=(libc6 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libgcc-s1)

wheel_tools() {
    python3 -m venv "$keep/tools" &&
        "$keep/tools/bin/pip" install -q ziglang cargo-zigbuild "setuptools>=68" wheel
}

wheel_build() {
    rm -rf "$work/wheel"
    # Without the host's own flags: they are for another machine.
    env -u RUSTFLAGS RUSTC="$work/rustc" CARGO_TARGET_DIR="$keep/target" CARGO_INCREMENTAL=0 \
        MOONCAKE_WHEEL_MACHINE=aarch64 MOONCAKE_WHEEL_GLIBC="$wheel_glibc" PATH="$keep/tools/bin:$PATH" \
        timeout "$build_seconds_max" "$keep/tools/bin/pip" wheel . --no-deps --no-build-isolation -w "$work/wheel"
}

# Debian's Python for aarch64, unpacked, with the libraries that ctypes and ssl load.
wheel_python() {
    local version name names=()
    export APT_CONFIG=$keep/apt/conf
    version=$(apt-cache depends python3-minimal:arm64 |
        sed -n 's/^ *\(Pre\)\?Depends: \(python3\.[0-9]*\)-minimal.*/\2/p' |
        head -n 1)
    [ -n "$version" ] || return
    for name in "$version-minimal" "lib$version-minimal" "lib$version-stdlib" "${wheel_packages[@]}"; do
        names+=("$name:arm64")
    done
    mkdir -p "$keep/python-packages" "$keep/python"
    (cd "$keep/python-packages" && apt-get -q download "${names[@]}") || return
    unset APT_CONFIG
    for name in "$keep"/python-packages/*.deb; do dpkg-deb -x "$name" "$keep/python" || return; done
    ln -sf "$version" "$keep/python/usr/bin/python3"
}

wheel_use() {
    cat >"$work/use.py" <<'PY'
import platform
import sys

import mooncake.engine
import mooncake.store

assert platform.machine() == "aarch64", platform.machine()
a, b = mooncake.engine.TransferEngine(), mooncake.engine.TransferEngine()
for made in (a, b):
    assert made.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0, mooncake.last_error()
x, y = a.allocate_managed_buffer(64), b.allocate_managed_buffer(64)
assert a.write_bytes_to_buffer(x, b"hello", 5) == 0
assert a.transfer_sync_write(f"127.0.0.1:{b.get_rpc_port()}", x, y, 5) == 0, mooncake.last_error()
assert b.read_bytes_from_buffer(y, 5) == b"hello"
store = mooncake.store.MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 1 << 20, 1 << 20, "tcp", "", sys.argv[1]) == 0, mooncake.last_error()
values = {f"key-{number}": bytes([number]) * (100 * number + 1) for number in range(50)}
for key, value in values.items():
    assert store.put(key, value) == 0, mooncake.last_error()
assert all(store.get(key) == value for key, value in values.items()), mooncake.last_error()
store.close()
print("used by Python", platform.python_version(), "on", platform.machine())
PY
    rm -rf "$work/site"
    mkdir "$work/site"
    python3 -m zipfile -e "$work"/wheel/*.whl "$work/site" || return
    local master port try
    port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$1" --rpc_address=127.0.0.1 --rpc_port="$port" --metrics_port=0 --enable_journal=false \
        >"$work/master.log" 2>&1 &
    master=$!
    for try in $(seq 100); do
        grep -q "service started" "$work/master.log" && break
        kill -0 "$master" 2>/dev/null || break
        sleep 0.1
    done
    # The site of the wheel first; nothing of this machine's interpreter.
    env -u PYTHONHOME -u MOONCAKE_LIBRARY PYTHONPATH="$work/site" timeout "$transfer_seconds_max" \
        qemu-aarch64 -L "$keep/python" "$keep/python/usr/bin/python3" -B "$work/use.py" "127.0.0.1:$port"
    local status=$?
    kill "$master" 2>/dev/null
    wait "$master" 2>/dev/null
    return "$status"
}

# wheel_part MASTER: MASTER is this machine's mooncake_master.
wheel_part() {
    if ! wheel_tools >"$work/tools.log" 2>&1; then
        skip wheel "the tools cannot be fetched: $(last "$work/tools.log")"
        return
    fi
    if ! wheel_build >"$work/wheel.log" 2>&1; then
        not_ok wheel/build "$(last "$work/wheel.log")"
        return
    fi
    echo "# $(basename "$work"/wheel/*.whl), $(stat -c %s "$work"/wheel/*.whl) bytes"
    case $(basename "$work"/wheel/*.whl) in
    *-manylinux_2_2[0-8]_aarch64.whl | *-manylinux_2_1[0-9]_aarch64.whl) ok wheel/build ;;
    *) not_ok wheel/build "its tag is $(basename "$work"/wheel/*.whl)" ;;
    esac
    if [ ! -x "$1" ]; then
        skip wheel/use "$1 is not built"
        return
    fi
    if ! wheel_python >"$work/python.log" 2>&1; then
        skip wheel/use "Debian's Python for aarch64: $(last "$work/python.log")"
        return
    fi
    if wheel_use "$1" >"$work/use.log" 2>&1; then
        echo "# $(last "$work/use.log")"
        ok wheel/use
    else
        not_ok wheel/use "$(last "$work/use.log")"
    fi
}
