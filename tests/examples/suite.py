#!/usr/bin/env python3
"""Runs every example as it is, with the stand-in where a model server belongs, and reads what it shows.

The examples have fixed ports, as deployments do. So each runs in a network namespace of its own, where nothing
can be in the way and nothing outside can help; without the right to make one they run as they are.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import zlib

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from harness.own_network import prefix  # noqa: E402
from harness.report import Failed, Report, expect  # noqa: E402

SECONDS_MAX = 120
# As in examples/stand_in/server.py; a test of one that asks the other would show nothing.
BLOCK_CHARACTERS, BLOCK_BYTES, LAYERS = 16, 32 << 10, 2
CITY = "San Francisco is a city that everybody has a song about"
STAND_IN = "stand-in"
PRESIDENT = "Hello. I have a question. The president of the United States is"


def run(name, **extra):
    """What examples/NAME/run printed; whatever it left behind is ended."""
    target = os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))
    environment = dict(os.environ, PYTHONPATH=str(TREE / "python"), PYTHON=sys.executable,
                       PYTHONDONTWRITEBYTECODE="1")
    environment.setdefault("MOONCAKE_LIBRARY", os.path.join(target, "release", "libmooncake.so"))
    environment.update(extra)
    process = subprocess.Popen([*prefix(), str(TREE / "examples" / name / "run")], env=environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = process.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise Failed(f"it does not end within {SECONDS_MAX} s") from None
    finally:
        left = ended(process.pid)
    expect(process.returncode == 0, f"status {process.returncode}: {(out + err)[-600:]}")
    expect(not left, "it left processes behind")
    return out


def ended(group):
    """True when something of the group was still there; it no longer is."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def blocks_of(prompt, model):
    """(count, checksum) of the KV cache that a prompt has, wherever it was made."""
    found, ends = 0, range(BLOCK_CHARACTERS, len(prompt) + BLOCK_CHARACTERS, BLOCK_CHARACTERS)
    for end in ends:
        key = f"{os.path.basename(model)}@{hashlib.sha256(prompt[:end].encode()).hexdigest()}"
        for layer in range(LAYERS):
            value = hashlib.shake_128(f"{key}/{layer}".encode()).digest(BLOCK_BYTES)
            found = zlib.crc32(value, found)
    return len(ends), f"{found:08x}"


def says(prompt, peer, pool, model):
    """The text of an answer made of that many blocks from each place."""
    count, checksum = blocks_of(prompt, model)
    return (f"{count} blocks: {peer} from a peer, {pool} from the pool, {count - peer - pool} computed; "
            f"checksum {checksum}")


def answers(out):
    """The texts of the completions, in order."""
    bodies = [json.loads(line) for line in out.splitlines() if line.startswith('{"object"')]
    return [body["choices"][0]["text"] for body in bodies]


def same(found, wanted):
    expect(found == wanted, f"{found} instead of {wanted}")


def handover():
    out = run("handover")
    expect("128 blocks read" in out and "4 written by prefill, all right" in out, out)
    expect("prefill: handed over" in out, out)


def store(model=STAND_IN, **extra):
    out = run("store", **extra)
    same(answers(out), [says(CITY, 0, 4, model)])
    keys = [line for line in out.splitlines() if line.startswith(f"{os.path.basename(model)}@")]
    same(len(keys), 4)


def store_service():
    out = run("store_service")
    for wanted in ("1048576 bytes put and got; removed: 0", '{"status": "success"}', "\nhello\n"):
        expect(wanted in out, f"{wanted} is not in {out}")
    # One segment: the service's. The client gave none.
    same(len(out.partition("segments:")[2].split()), 1)


def multi_connector(model=STAND_IN, **extra):
    same(answers(run("multi_connector", **extra)),
         [says(PRESIDENT, 4, 0, model), says(PRESIDENT, 0, 4, model)])


def proxy(model=STAND_IN, **extra):
    prompt = "San Francisco is a"
    out = run("proxy", **extra)
    text = says(prompt, 2, 0, model)
    same(answers(out), [text] * 9)
    events = [line[len("data: "):] for line in out.splitlines() if line.startswith("data: ")]
    same(events.pop(), "[DONE]")
    same("".join(json.loads(event)["choices"][0]["text"] for event in events).strip(), text)
    expect("prefill localhost:8102 added" in out, out)
    down, back = [json.loads(line) for line in out.splitlines() if line.startswith('{"prefill_node')]
    same([node["up"] for node in down["decode_nodes"]], [True, False])
    same([node["served"] for node in down["prefill_nodes"]], [2, 2, 2])
    same([node["up"] for node in back["decode_nodes"]], [True, True])
    expect(back["decode_nodes"][1]["served"] > down["decode_nodes"][1]["served"], "8201 stays idle")


# Takes what `vllm serve` takes, writes it down, and is the stand-in for the rest.
VLLM = """#!{python}
import json, os, sys
with open({record!r}, "a") as record:
    record.write(json.dumps(sys.argv[1:]) + "\\n")
serve, model, *flags = sys.argv[1:]
assert serve == "serve" and not model.startswith("-"), sys.argv
os.execv({python!r}, [{python!r}, {server!r}, "--model", model, *flags])
"""


def with_vllm(example, *ports):
    """MODEL_SERVER and MODEL put another program in the stand-in's place: it is started as vLLM is, and asked for the
    model that it serves."""
    with tempfile.TemporaryDirectory() as folder:
        record, model = os.path.join(folder, "record"), os.path.join(folder, "models", "tiny")
        program = pathlib.Path(folder) / "vllm"
        program.write_text(VLLM.format(python=sys.executable, record=record,
                                       server=str(TREE / "examples" / "stand_in" / "server.py")),
                           encoding="utf-8")
        program.chmod(0o755)
        EXAMPLES_BY_NAME[example](model, MODEL_SERVER="vllm serve", MODEL=model,
                                  PATH=f"{folder}:{os.environ['PATH']}")
        with open(record, encoding="utf-8") as lines:
            started = [json.loads(line) for line in lines]
    same(len(started), len(ports))
    for words, port in zip(started, ports):
        same(words[:7], ["serve", model, "--host", "127.0.0.1", "--port", port, "--kv-transfer-config"])
        expect("kv_connector" in json.loads(words[7]) and len(words) == 8, words)


def failure_is_told():
    """A server that cannot start ends the example with its reason, and nothing is left behind."""
    try:
        run("multi_connector", MODEL_SERVER="false", MODEL="none")
    except Failed as reason:
        expect("prefill does not serve on port 8100" in str(reason), str(reason))
        return
    raise Failed("it went on without a model server")


def every_folder_is_here():
    """A folder without a test, or without its README and its place in the index, is not an example."""
    folders = {path.parent.name for path in (TREE / "examples").glob("*/run")}
    same(folders, {test.__name__ for test in EXAMPLES})
    index = (TREE / "examples" / "README.md").read_text(encoding="utf-8")
    for name in folders:
        expect((TREE / "examples" / name / "README.md").exists(), f"{name} has no README.md")
        expect(f"({name}/README.md)" in index, f"{name} is not in the index")


EXAMPLES = (handover, store, store_service, multi_connector, proxy)
EXAMPLES_BY_NAME = {test.__name__: test for test in EXAMPLES}


def main(words):
    report = Report("examples", words)
    if not prefix():
        print("# no network namespaces for this user: the examples use the ports of this host")
    for test in (*EXAMPLES, failure_is_told, every_folder_is_here):
        report.run(test.__name__, test)
    for example, *ports in (("store", "8100", "8200"), ("multi_connector", "8100", "8200"),
                            ("proxy", "8100", "8101", "8200", "8201", "8102", "8201")):
        report.run(f"with_vllm/{example}", with_vllm, example, *ports)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
