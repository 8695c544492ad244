"""Turns measurements into tables: figures, the machine's limit, ratios, and the aims."""

import datetime
import os
import platform
import re
import statistics
from pathlib import Path

OURS = "ours native"
SAME_HOST = "ours same host"
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

    def reduce(self, key, name, statistic):
        found = self.values.get((key, name))
        return statistic(found) if found else None

    def median(self, key, name):
        return self.reduce(key, name, statistics.median)


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


def same_host_table(figures):
    """Against memcpy, our own TCP and NIXL's way within a host, from the same run."""
    header = ["what", "memcpy", SAME_HOST, "/ memcpy", "/ " + OURS, "/ nixl host"]
    lines = []
    for cell in figures.cells:
        op, block, batch, threads = cell
        # One request is about its time, a batch of small blocks about their number.
        name, scale, unit, digits = ("gb_per_s", 1, "GB/s", 2)
        if block <= 4 * KIB:
            name, scale, unit, digits = (
                ("p50_us", 1, "us", 1) if batch == 1 else ("blocks_per_s", 1e-3, "k/s", 0))
        mine = figures.median((SAME_HOST, *cell), name)
        if threads > 1 or not mine:
            continue
        memory = figures.get(("limit", "memcpy", None, block), "gb_per_s")
        is_rate = name == "gb_per_s"
        label = f"{op} {size(block)}" + (f" x {batch}" if batch > 1 else "")
        lines.append([
            label, f"{spread(memory)} GB/s" if memory else "-",
            f"{spread(figures.get((SAME_HOST, *cell), name), scale, digits)} {unit}",
            ratio(mine, memory[1]) if memory and is_rate else "-",
            ratio(mine, figures.median((OURS, *cell), name)),
            ratio(mine, figures.median(("nixl host", *cell), name)),
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
    return table(["what", "bare socket (reno)", *figures.peers], lines)


def aims_table(figures):
    """The aims for native TCP and the loopback transport, and whether they are met.

    A disturbed round makes some peers look slower than others. So every aim is held twice: the
    medians against each other, and the best round of each against the best round of the other.
    """
    lines = []

    def aim(what, mine, others, name, bound, lower_is_better=False):
        best_of = min if lower_is_better else max
        ratios = []
        for statistic in (statistics.median, best_of):
            own = figures.reduce(mine, name, statistic)
            other = [figures.reduce(key, name, statistic) for key in others]
            other = [value for value in other if value]
            if not own or not other:
                return
            ratios.append(own / best_of(other))
        met = all(value <= bound if lower_is_better else value >= bound for value in ratios)
        lines.append([what, f"{'<=' if lower_is_better else '>='} {bound:g}",
                      *(f"{value:.2f}" for value in ratios), "yes" if met else "no"])

    upstream = [peer for peer in figures.peers if peer.startswith("upstream")]
    for op in ("write", "read"):
        for cell in figures.cells:
            if cell[0] == op and cell[1] >= MIB and cell[2] > 1 and cell[3] == 1:
                aim(f"{op} {size(cell[1])} in batches / bare socket", (OURS, *cell),
                    [("limit", "socket", op, cell[1])], "gb_per_s", 0.9)
        many, one = (op, 4 * KIB, 32, 1), (op, 4 * KIB, 1, 1)
        aim(f"{op} 4 KiB in batches / best upstream", (OURS, *many),
            [(peer, *many) for peer in upstream], "blocks_per_s", 10)
        aim(f"{op} 4 KiB in batches / nixl tcp", (OURS, *many), [("nixl tcp", *many)],
            "blocks_per_s", 8)
        aim(f"{op} one 4 KiB p50 / nixl tcp", (OURS, *one), [("nixl tcp", *one)], "p50_us", 1, True)
        aim(f"{op} one 4 KiB p50 / best upstream", (OURS, *one),
            [(peer, *one) for peer in upstream], "p50_us", 0.5, True)
    spent = [figures.reduce(("submit_poll",), "median_ns", statistics.median),
             figures.reduce(("submit_poll",), "min_ns", min)]
    if None not in spent:
        lines.append(["submit + poll, no data", "<= 200 ns",
                      *(f"{value:.0f} ns" for value in spent),
                      "yes" if max(spent) <= 200 else "no"])
        allocations = figures.median(("submit_poll",), "allocations_per_operation")
        lines.append(["allocations per submit + poll", "0", f"{allocations:.2f}", "",
                      "no" if allocations else "yes"])
    return table(["aim", "bound", "of medians", "of best rounds", "met"], lines)


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
        ("Same host", same_host_table(figures)),
        ("Thousand 4 KiB blocks per second, in batches", measure_table(
            figures, small, "blocks_per_s", 1e-3, 0, "bare socket (reno), gathered",
            gathered, max)),
        ("GB per second", measure_table(
            figures, large, "gb_per_s", 1, 2, "bare socket (reno)", socket, max)),
        ("One blocking request, p50 in microseconds", measure_table(
            figures, single, "p50_us", 1, 1, "bare socket (reno), brief spin", exchange, min)),
        ("One blocking request, p99 in microseconds", measure_table(
            figures, single, "p99_us", 1, 1, "bare socket (reno), brief spin", exchange, min)),
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
