"""That the benchmark works on guests. Never how fast."""

import json
import os
import subprocess

import tools

BENCH = tools.PROJECT / "test/bench/run"


def test_short_form_measures_all_on_guests(debugfs_kernel, tmp_path):
    environment = {**os.environ, "LOCKSPACEFS": str(tools.daemon())}
    done = subprocess.run([BENCH, "--only", "cluster", "--short", "--json", tmp_path / "figures.json"], env=environment,
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    rows, = found["runs"]
    times = {(row["what"], row["on"]): row for row in rows if row["group"] == "guest"}
    handed = {(row["what"], row["on"]): row for row in rows if row["group"] == "hand-over"}

    assert times.keys() == {
        ("lock+unlock", "libdlm"), ("lock+unlock", "libdlm, one thread"),
        *(("flock+unlock", on) for on in ("lockspacefs", "nullfs", "tmpfs", "nullfs + libdlm")),
        *(("open+close in .ex", on) for on in ("lockspacefs", "nullfs", "dlmfs", "nullfs + libdlm")),
    }
    for what in "flock+unlock", "open+close in .ex":
        ours = times[what, "lockspacefs"]
        assert ours["against"].keys() == {on for of, on in times if of == what and on != "lockspacefs"}
        # a lock of the DLM's, got through FUSE, takes longer than either
        assert ours["median_us"] > times[what, "nullfs"]["median_us"]
        assert ours["median_us"] > times["lock+unlock", "libdlm, one thread"]["median_us"]

    assert handed.keys() == {
        *((f"{what}, {size} nodes", on) for what in ("flock", "open in .ex") for size in (2, 3)
          for on in ("lockspacefs", "libdlm")),
        ("open in .ex, 2 nodes", "dlmfs"),
    }
    assert all(row["per_second"] > 0 and row["least_share_percent"] > 0 for row in handed.values())
    judged = {target["name"]: target for target in found["targets"] if target["met"] is not None}
    assert len(judged) == 3 and all("guest" in name and name in done.stdout for name in judged)
