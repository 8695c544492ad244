#!/bin/sh
# has_symbol.sh LIBRARY SYMBOL: passes if the library asks for the symbol at load time.
if nm -D "$1" | grep -q " $2\$"; then
    exit 0
fi
echo "$1 does not use $2: it is not what its name says" >&2
exit 1
