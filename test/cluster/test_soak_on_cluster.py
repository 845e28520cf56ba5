"""The soak (test/soak) on three nodes, in its short form: with faults that need no node to start again."""

import json
import subprocess

import tools

SECONDS = 6
FAULTS = "client-kill,client-freeze,daemon-kill,node-pause"


def test_soak_on_a_cluster(tmp_path, debugfs_kernel):
    result = tmp_path / "result"
    done = subprocess.run([tools.PROJECT / "test" / "soak" / "run", "--on", "cluster", "--for", f"{SECONDS}s", "--faults", FAULTS,
                           "--json", result], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("all is well"), done.stdout + done.stderr
    [seen] = json.loads(result.read_text(encoding="utf-8"))
    assert seen["operations"]["count"] > 10 and sum(seen["faults"].values()) > 0
    assert len({life.split("-")[0] for life in seen["samples"]}) == 3
