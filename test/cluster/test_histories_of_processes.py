"""Random histories of processes that use the kernel's DLM and are killed: test/histories on a node."""

import re

import lockspacefs_test
import tools

OPERATIONS = 2000


def test_processes_on_the_dlm(one_node):
    build = lockspacefs_test.daemon_path().resolve().parent.parent
    done = one_node.node(1).run(f"{tools.PROJECT / 'test' / 'histories' / 'run'} --build {build} --on processes --ops {OPERATIONS}",
                                timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"^(\d+) operations .* as the model says$", done.stdout, re.MULTILINE)
    assert said and int(said[1]) >= OPERATIONS, done.stdout
