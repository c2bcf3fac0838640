#!/usr/bin/env python3
"""Runs commands against each other, alternated, and prints a Markdown table of medians.

    race.py [--repeats N] [--daemon NAME=PID]… [--bytes N] TITLE NAME PREPARE COMMAND [NAME PREPARE COMMAND]…

Every command is a line for bash. PREPARE runs before each repeat and is not measured. Wall time, CPU time and peak memory are those
of /usr/bin/time; where NAME has a daemon, what that process spends and the most memory that it holds meanwhile is added. A name may
be CASE: TOOL; the ratio compares with the first tool of the same case. With --bytes, throughput is printed as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

TICKS = os.sysconf("SC_CLK_TCK")


def stat(process):
    """The fields of /proc/PID/stat behind the command's name, which may hold anything."""
    with open(f"/proc/{process}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()


def family(pid):
    """A process and all its descendants."""
    parents = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents.setdefault(int(stat(process)[1]), []).append(int(process))
        except OSError:
            continue
    found = [pid]
    for process in found:
        found.extend(parents.get(process, []))
    return found


class Daemon:
    """What a process and its children spend while a command runs."""

    def __init__(self, pid):
        self.processes = family(pid) if pid else []
        self.before = self.cpu()
        for process in self.processes:
            # Makes the kernel forget the highest memory so far.
            with open(f"/proc/{process}/clear_refs", "w") as file:
                file.write("5")

    def cpu(self):
        # User and system time, of the process and of the children that it waited for.
        return sum(sum(map(int, stat(process)[11:15])) for process in self.processes) / TICKS

    def spent(self):
        return self.cpu() - self.before

    def peak(self):
        total = 0
        for process in self.processes:
            with open(f"/proc/{process}/status") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        return total / 1000 * 1.024


def run_once(name, prepare, command, pid):
    """Gives wall seconds, CPU seconds, and the peak of memory in MB."""
    check(name, subprocess.run(["bash", "-c", prepare], stdin=subprocess.DEVNULL, capture_output=True, text=True))
    daemon = Daemon(pid)
    with tempfile.NamedTemporaryFile() as figures:
        done = subprocess.run(["/usr/bin/time", "-q", "-o", figures.name, "-f", "%e %U %S %M", "bash", "-c", "exec " + command],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        check(name, done)
        wall, user, system, memory = map(float, figures.read().split()[-4:])
    return wall, user + system + daemon.spent(), memory / 1000 * 1.024 + daemon.peak()


def check(name, done):
    if done.returncode:
        sys.exit(f"{name} failed with {done.returncode}: {done.args[-1]}\n{done.stdout}{done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--daemon", action="append", default=[])
    parser.add_argument("--bytes", type=int)
    parser.add_argument("title")
    parser.add_argument("contenders", nargs="+")
    arguments = parser.parse_args()
    rest = arguments.contenders
    if len(rest) % 3:
        parser.error("each contender is a name, a preparation and a command")
    contenders = [tuple(rest[i:i + 3]) for i in range(0, len(rest), 3)]
    daemons = dict(pair.split("=") for pair in arguments.daemon)
    figures = {name: [] for name, _, _ in contenders}
    for _ in range(arguments.repeats):
        for name, prepare, command in contenders:
            figures[name].append(run_once(name, prepare, command, int(daemons.get(name.split(": ")[-1], 0))))
    print(table(arguments.title, arguments.repeats, figures, arguments.bytes))
    print(json.dumps(figures), file=sys.stderr)


def table(title, repeats, figures, size):
    columns = [f"{title} (median of {repeats})", "wall", "spread", "ratio", "CPU", "peak memory"]
    if size:
        columns.append("throughput")
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    first = {}
    for name, runs in figures.items():
        wall, cpu, memory = (statistics.median(values) for values in zip(*runs))
        reference = first.setdefault(name.rpartition(": ")[0], max(wall, 0.01))
        walls = [run[0] for run in runs]
        cells = [name, f"{wall:.2f} s", f"{min(walls):.2f}–{max(walls):.2f}", f"{wall / reference:.1f}", f"{cpu:.2f} s", f"{memory:.0f} MB"]
        if size:
            cells.append(f"{size / wall / 1e6:.0f} MB/s")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
