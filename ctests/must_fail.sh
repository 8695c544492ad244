#!/bin/sh
# must_fail.sh STATUS COMMAND...: passes if the command ends with exactly this status.
expected=$1
shift
"$@"
status=$?
[ "$status" -eq "$expected" ] && exit 0
echo "ended with $status instead of $expected: the tool does not see what it should" >&2
exit 1
