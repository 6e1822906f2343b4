#!/usr/bin/env python3
"""bench-load-table DIRECTORY: the table that tools/bench-load prints, in Markdown.

DIRECTORY/result has a line for each turn: name, form, seconds, kilobytes; DIRECTORY/versions the names in
their order with their versions.
"""
import collections, pathlib, statistics, sys

work = pathlib.Path(sys.argv[1])
turns = collections.defaultdict(list)
for line in (work / "result").read_text().splitlines():
    name, form, seconds, kilobytes = line.split()
    turns[name, form].append((float(seconds), int(kilobytes)))
forms = [form for form in ["plain", "gzip", "zstd"] if any(f == form for _, f in turns)]
print("| | " + " | ".join(forms) + " | peak RSS |")
print("|---|" + "---|" * (len(forms) + 1))
for line in (work / "versions").read_text().splitlines():
    name, version = line.split(" ", 1)
    cells = []
    for form in forms:
        mine, reference = turns.get((name, form)), turns.get(("tar", form))
        if not mine:
            cells.append("–")
            continue
        median = statistics.median(seconds for seconds, _ in mine)
        ratio = f" ({median / statistics.median(s for s, _ in reference):.2f})" if reference else ""
        cells.append(f"{median:.2f} s{ratio}")
    peak = max((k for form in forms for _, k in turns.get((name, form), [])), default=0)
    print(f"| {name} {version} | " + " | ".join(cells) + (f" | {peak / 1000:.0f} MB |" if peak else " | – |"))
print("\nArchives: " + ", ".join(f"{form} {(work / f'{form}.tar').stat().st_size / 1e6:.0f} MB" for form in forms)
      + f"; {len(list((work / 'plain').iterdir()))} layers. Rounds: {max(map(len, turns.values()))}.")
