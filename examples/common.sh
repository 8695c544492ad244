# What the `run` scripts share: begin a program, wait until it serves, ask it, end all of them. Sourced.
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
# What the model servers serve, and so what is asked for.
model_name=${MODEL:-stand-in}
# In tenths of a second. A real model server loads a model first.
ready_tries=300
[ -z "${MODEL_SERVER:-}" ] || ready_tries=18000
started=()
names=()

end_all() {
    local status=$?
    [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait
    exit "$status"
}
trap end_all EXIT
trap 'exit 130' INT TERM

# begin NAME PROGRAM...: in the background; its process is the last of `started`.
begin() {
    names+=("$1")
    "${@:2}" &
    started+=($!)
}

# ready PORT: waits until something listens there, as long as the last program lives.
ready() {
    local try
    for try in $(seq "$ready_tries"); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
        kill -0 "${started[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "${names[-1]} does not serve on port $1" >&2
    return 1
}

# model NAME PORT FLAGS...: a model server. MODEL_SERVER is its command, MODEL what it serves: with
# MODEL_SERVER="vllm serve" MODEL=/models/NAME it is a real one.
model() {
    # shellcheck disable=SC2206
    local command=(${MODEL_SERVER:-"$python" "$examples/stand_in/server.py"})
    local served=()
    if [ -n "${MODEL_SERVER:-}" ]; then served=("${MODEL:?}"); else served=(--model "$model_name"); fi
    begin "$1" "${command[@]}" "${served[@]}" --host 127.0.0.1 --port "$2" "${@:3}"
    ready "$2"
}

# ask METHOD URL [JSON [HEADER]]: prints the answer; what `curl -s` would.
ask() { "$python" "$examples/ask.py" "$@"; }
