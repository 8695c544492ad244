"""Turns measurements into tables: figures, the machine's limit, ratios, and the aims."""

import datetime
import os
import platform
import re
import statistics
from pathlib import Path

OURS = "ours native"
KIB, MIB = 1 << 10, 1 << 20
WAITING = {
    "ping": "both sides asleep in recv", "ping_spin": "both sides spinning",
    "ping_brief_spin": "both sides spinning for 50 us, then asleep",
}


def describe_machine(options, busy):
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    congestion = options.congestion or Path(
        "/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return (f"{datetime.date.today()}, {model}, {os.cpu_count()} cores, "
            f"Linux {platform.release()}, loopback with congestion control {congestion}; "
            f"{options.rounds} rounds of {options.seconds} s each; "
            f"processor busy with other things: {busy:.0%} before,")


class Figures:
    """min, median and max over the rounds, by (peer, cell) and measure."""

    def __init__(self, rows):
        self.values = {}
        for row in rows:
            key = self.key(row)
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    self.values.setdefault((key, name), []).append(value)
        self.peers = list(dict.fromkeys(row["peer"] for row in rows if row.get("peer") != "limit"
                                        and "peer" in row))
        self.cells = list(dict.fromkeys(
            (row["op"], row["block_bytes"], row["batch"], row["threads"])
            for row in rows if "batch" in row))

    @staticmethod
    def key(row):
        if row.get("peer") == "limit":
            return "limit", row["what"], row.get("op"), row["block_bytes"]
        if "batch" not in row:
            return (row["what"],)
        return row["peer"], row["op"], row["block_bytes"], row["batch"], row["threads"]

    def get(self, key, name):
        """(min, median, max) or None."""
        found = self.values.get((key, name))
        return (min(found), statistics.median(found), max(found)) if found else None

    def median(self, key, name):
        found = self.get(key, name)
        return found[1] if found else None


def size(block):
    return f"{block // MIB} MiB" if block >= MIB else f"{block // KIB} KiB"


def spread(figure, scale=1.0, digits=2):
    if figure is None:
        return "-"
    low, middle, high = (f"{value * scale:.{digits}f}" for value in figure)
    return f"**{middle}** ({low}-{high})"


def ratio(figure, other):
    return f"{figure / other:.2f}" if figure and other else "-"


def table(header, lines):
    if not lines:
        return ""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def best(figures, prefix, cell, name, pick):
    found = [figures.median((peer, *cell), name)
             for peer in figures.peers if peer.startswith(prefix)]
    found = [value for value in found if value]
    return pick(found) if found else None


def measure_table(figures, cells, name, scale, digits, limit_name, limit_of, pick):
    """One line per cell: limit, every peer, and our ratios to the limit and to the best of each."""
    header = ["what", limit_name, *figures.peers]
    header += ["ours / limit", "ours / best upstream", "ours / nixl tcp", "ours / nixl tcp tuned"]
    lines = []
    for cell in cells:
        op, block, batch, threads = cell
        limit = figures.get(limit_of(op, block), name)
        mine = figures.median((OURS, *cell), name)
        label = f"{op} {size(block)}" + (f" x {batch}" if batch > 1 else "")
        label += f", {threads} threads" if threads > 1 else ""
        lines.append([
            label, spread(limit, scale, digits),
            *(spread(figures.get((peer, *cell), name), scale, digits) for peer in figures.peers),
            ratio(mine, limit[1] if limit else None),
            ratio(mine, best(figures, "upstream", cell, name, pick)),
            ratio(mine, figures.median(("nixl tcp", *cell), name)),
            ratio(mine, figures.median(("nixl tcp tuned", *cell), name)),
        ])
    return table(header, lines)


def cpu_table(figures, cells):
    """Processor seconds per GB of both processes together."""
    def total(key):
        both = [figures.median(key, f"cpu_s_per_gb_{side}") for side in ("initiator", "target")]
        return sum(both) if None not in both else None

    lines = []
    for cell in cells:
        op, block, batch, threads = cell
        values = [total(("limit", "socket", op, block))]
        values += [total((peer, *cell)) for peer in figures.peers]
        label = f"{op} {size(block)} x {batch}" + (f", {threads} threads" if threads > 1 else "")
        lines.append([label, *(f"{value:.2f}" if value else "-" for value in values)])
    return table(["what", "bare socket", *figures.peers], lines)


def aims_table(figures):
    """The aims for native TCP and the loopback transport, and whether they are met."""
    lines = []

    def aim(what, value, bound, at_most=False, unit=""):
        if value is None:
            return
        met = value <= bound if at_most else value >= bound
        sign = "<=" if at_most else ">="
        lines.append([what, f"{sign} {bound:g}{unit}", f"{value:.2f}{unit}",
                      "yes" if met else "no"])

    def share(mine, other):
        return mine / other if mine and other else None

    for op in ("write", "read"):
        for cell in figures.cells:
            if cell[0] != op or cell[1] < MIB or cell[2] == 1 or cell[3] != 1:
                continue
            mine = figures.median((OURS, *cell), "gb_per_s")
            limit = figures.median(("limit", "socket", op, cell[1]), "gb_per_s")
            aim(f"{op} {size(cell[1])} in batches / bare socket", share(mine, limit), 0.9)
        cell = (op, 4 * KIB, 32, 1)
        mine = figures.median((OURS, *cell), "blocks_per_s")
        aim(f"{op} 4 KiB in batches / best upstream",
            share(mine, best(figures, "upstream", cell, "blocks_per_s", max)), 10)
        aim(f"{op} 4 KiB in batches / nixl tcp",
            share(mine, figures.median(("nixl tcp", *cell), "blocks_per_s")), 8)
        cell = (op, 4 * KIB, 1, 1)
        mine = figures.median((OURS, *cell), "p50_us")
        aim(f"{op} one 4 KiB p50 / nixl tcp",
            share(mine, figures.median(("nixl tcp", *cell), "p50_us")), 1, at_most=True)
        aim(f"{op} one 4 KiB p50 / best upstream",
            share(mine, best(figures, "upstream", cell, "p50_us", min)), 0.5, at_most=True)
    aim("submit + poll, no data", figures.median(("submit_poll",), "median_ns"), 200, True, " ns")
    aim("allocations per submit + poll",
        figures.median(("submit_poll",), "allocations_per_operation"), 0, True)
    return table(["aim", "bound", "measured", "met"], lines)


def render(machine, rows, skipped):
    figures = Figures(rows)
    batches = [cell for cell in figures.cells if cell[2] > 1]
    small = [cell for cell in batches if cell[1] == 4 * KIB]
    large = [cell for cell in figures.cells if cell[1] > 4 * KIB]
    single = [cell for cell in figures.cells if cell[2] == 1]

    def socket(op, block):
        return "limit", "socket", op, block

    def gathered(op, block):
        return "limit", "gather", op, block

    def exchange(op, block):
        return "limit", "ping_brief_spin", op, block

    parts = [f"{machine}\n"]
    for name, reason in skipped.items():
        parts.append(f"Skipped: {name}: {reason}\n")
    for title, text in [
        ("Aims", aims_table(figures)),
        ("Thousand 4 KiB blocks per second, in batches", measure_table(
            figures, small, "blocks_per_s", 1e-3, 0, "bare socket, gathered", gathered, max)),
        ("GB per second", measure_table(
            figures, large, "gb_per_s", 1, 2, "bare socket", socket, max)),
        ("One blocking request, p50 in microseconds", measure_table(
            figures, single, "p50_us", 1, 1, "bare socket, brief spin", exchange, min)),
        ("One blocking request, p99 in microseconds", measure_table(
            figures, single, "p99_us", 1, 1, "bare socket, brief spin", exchange, min)),
        ("Processor seconds per GB, both processes together", cpu_table(figures, batches)),
        ("Limits of the machine", limits_table(figures)),
    ]:
        if text:
            parts.append(f"#### {title}\n\n{text}")
    return "\n".join(parts)


def limits_table(figures):
    lines = []
    for (key, name), _ in figures.values.items():
        if key[0] != "limit" or name not in ("gb_per_s", "p50_us"):
            continue
        if key[1] == "memcpy":
            lines.append([f"memcpy by one core, {size(key[3])}",
                          f"{spread(figures.get(key, name))} GB/s"])
        elif key[1] in WAITING:
            how = WAITING[key[1]]
            lines.append([f"one 4 KiB {key[2]} and its reply, {how}",
                          f"{spread(figures.get(key, name))} us"])
    for key, how in ((("submit_poll",), "one at a time"), (("submit_poll_batch",), "32 at a time")):
        if figures.get(key, "median_ns"):
            spent = [figures.median(key, f"{name}_ns") for name in ("median", "min", "max")]
            lines.append([f"our submit + poll of 8 bytes over the loopback transport, {how}",
                          "**{:.0f}** ({:.0f}-{:.0f}) ns per request, ".format(*spent)
                          + f"{figures.median(key, 'allocations_per_operation'):.2f} allocations"])
    return table(["what", "figure"], lines)


def write(path, name, text):
    """Replaces the generated part of that name, or appends it."""
    begin, end = f"<!-- bench {name} begin -->", f"<!-- bench {name} end -->"
    part = f"{begin}\n{text}\n{end}"
    old = path.read_text() if path.is_file() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(old):
        new = pattern.sub(lambda _: part, old)
    else:
        new = f"{old.rstrip()}\n\n## {name}\n\n{part}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)
