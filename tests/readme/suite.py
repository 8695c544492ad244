#!/usr/bin/env python3
"""README suite: its examples work when pasted, and its links lead somewhere.

The C and Python blocks are saved under the names the text gives, then the commands of the README that
build and run them are executed. Only `make install` and `pip install .` are replaced, by links to the
build at hand and the package of this tree.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from harness.report import Report, Skip, expect  # noqa: E402

WORK = TREE / "build" / "readme"
SECONDS_MAX = 60
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "tests/README.md",
         "fuzz/README.md", "examples/*.md", "examples/*/README.md"]


def blocks(text, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for word, block in found if word == language]


def library():
    target = os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))
    path = os.environ.get("MOONCAKE_LIBRARY", os.path.join(target, "release", "libmooncake.so"))
    if not os.path.exists(path):
        raise Skip(f"{path} is not built")
    return os.path.abspath(path)


def prepare():
    """The working folder, with what `make install PREFIX=$PWD/dist` would put there."""
    file = library()
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "dist" / "lib").mkdir(parents=True)
    (WORK / "dist" / "include").symlink_to(TREE / "include")
    abi = re.search(r"^#define MC_ABI_VERSION (\d+)", (TREE / "include/mooncake.h").read_text(),
                    re.MULTILINE)[1]
    for name in ("libmooncake.so", f"libmooncake.so.{abi}"):
        (WORK / "dist" / "lib" / name).symlink_to(file)


def run(command):
    environment = dict(os.environ, PWD=str(WORK), PYTHONPATH=str(TREE / "python"),
                       MOONCAKE_LIBRARY=library())
    done = subprocess.run(command, shell=True, cwd=WORK, capture_output=True, text=True,
                          timeout=SECONDS_MAX, check=False, env=environment)
    expect(done.returncode == 0, f"`{command}` gave {done.returncode}: {done.stderr[-500:]}")
    return done.stdout.strip()


def example(language, file, first_words, compiler=None):
    """Saves the block that is meant by `file`, runs the commands that begin with `first_words`, and
    compares the output with the one the text promises."""
    if compiler and shutil.which(compiler) is None:
        raise Skip(f"{compiler} is not installed")
    prepare()
    text = (TREE / "README.md").read_text()
    sources = blocks(text, language)
    expect(len(sources) == 1, f"{len(sources)} {language} blocks in README.md")
    (WORK / file).write_text(sources[0])
    commands = [line for block in blocks(text, "") for line in block.splitlines()
                if line.startswith(first_words) and "hello" in line]
    expect(commands, f"README.md has no command for {file}")
    outputs = [run(command) for command in commands]
    section = text[text.index(sources[0]):]
    promised = re.search(r"It prints `([^`]*)`", section)[1]
    expect(outputs[-1] == promised, f"printed {outputs[-1]!r}, the text says {promised!r}")
    return promised


def links(page):
    """Relative links of a page lead to files, and to headings that exist."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text)
    local = [(path, part) for path, part in targets if "://" not in path]
    for path, part in local:
        target = (page.parent / path).resolve() if path else page
        expect(target.exists(), f"{path} does not exist")
        if part and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}
            expect(part in anchors, f"{path}#{part}: no such heading")
    return f"{len(local)} links"


def main():
    report = Report("readme", sys.argv[1:])
    report.run("c", example, "c", "hello.c", ("cc ", "./"), "cc")
    report.run("python", example, "python", "hello.py", ("python3 ",))
    for pattern in PAGES:
        for page in sorted(TREE.glob(pattern)):
            report.run(f"links/{page.relative_to(TREE)}", links, page)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
