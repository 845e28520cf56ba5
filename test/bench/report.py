"""The figures as tables for people."""

import statistics

from targets import TARGETS


def table(header, lines):
    """Columns as wide as they must be, the first to the left and numbers to the right."""
    lines = [header, *lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) if i < 2 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
                     for line in lines)


def heading(row):
    words = {"peers": ["lock servers"], "growth": ["as they get more"]}.get(row["group"], [row["group"]])
    if "placement" in row:
        words = words if row["group"] == "peers" else []
        words += [row["placement"], "one client" if row["clients"] == 1 else f"{row['clients']} clients"]
    return ", ".join(words)


def sections(rows):
    """The rows that belong in one table, by their heading."""
    found = {}
    for row in rows:
        found.setdefault(heading(row), []).append(row)
    return found


def figure(row, key, digits=1):
    return f"{row[key]:,.{digits}f}" if key in row else "-"


FIGURES = [("median_us", "median µs", 1), ("p99_us", "p99 µs", 1), ("lock_us", "lock µs", 1), ("unlock_us", "unlock µs", 1),
           ("per_second", "per second", 0), ("retaken_percent", "retaken %", 0), ("least_share_percent", "least share %", 0),
           ("longest_gap_ms", "longest gap ms", 1), ("seconds", "seconds", 2), ("bytes", "bytes", 0)]


def table_of(rows):
    """The first row of each is set against the others: how many times as long it takes as this one."""
    figures = [entry for entry in FIGURES if any(entry[0] in row for row in rows)]
    lines, before = [], None
    for row in rows:
        if row["what"] != before:
            before, against = row["what"], {}
        lines.append([row["what"] if not against else "", row["on"], *(figure(row, key, digits) for key, _, digits in figures),
                      f"{against[row['on']]:.2f}x" if row["on"] in against else ""])
        against = row.get("against", against)
    return table(["", "on", *(title for _, title, _ in figures), "ratio"], lines)


def tables(rows):
    return "\n\n".join(f"{heading}\n{table_of(found)}" for heading, found in sections(rows).items())


def verdicts(runs):
    """Of each target: its name, its bound, the figure and its floor in each run (None: not measured), and whether it was
    met in all."""
    found = []
    for target in TARGETS:
        values = [target.value(rows) for rows in runs]
        measured = [value for value in values if value is not None]
        found.append({"name": target.name, "bound": target.bound, "at_least": target.at_least, "values": values,
                      "floors": [target.floor_value(rows) for rows in runs],
                      "met": all(map(target.is_met, measured)) if measured else None})
    return found


def table_of_verdicts(found):
    """Of what verdicts() has found."""
    if not found:
        return "no target was measured"

    def number(value):
        return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3f}"

    def floor(values):
        measured = [value for value in values if value is not None]
        return number(statistics.median(measured)) if measured else ""

    runs = len(found[0]["values"])
    header = ["target", "", "bound", *(["measured"] + [""] * (runs - 1)), "floor", ""]
    return table(header, [[verdict["name"], "at least" if verdict["at_least"] else "at most", number(verdict["bound"]),
                           *map(number, verdict["values"]), floor(verdict["floors"]),
                           {True: "met", False: "MISSED", None: "not measured"}[verdict["met"]]] for verdict in found])
