"""The programs in examples/ on several nodes at once: what each promises, it promises for the cluster."""

from pathlib import Path

from actors import make, mounted

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
LANGUAGES = ["sh", "py"]                        # node by node


def start(site, example, arguments=""):
    return site.node.popen(f"exec '{EXAMPLES}/{example}' {arguments}")


def test_counters_draw_each_number_once(sites):
    counters = [start(site, f"counter.{language}", "10") for site in sites for language in LANGUAGES]
    drawn = []
    for counter in counters:
        done = counter.wait()
        assert done.returncode == 0, done.stderr
        drawn += [int(line) for line in done.stdout.split()]
    assert sorted(drawn) == list(range(1, 41))


def test_a_counter_whose_value_was_lost_says_so_and_goes_on_from_a_new_one(sites):
    one, two = sites
    assert start(one, "counter.py").wait().stdout == "1\n"
    other = two.program("web", "lock w tickets EX valblk")      # another program, which dies as the writer
    other.wait_for("w granted")
    other.kill()
    two.wait_free("tickets")
    for site in sites:
        for language, word in zip(LANGUAGES, ["Input/output error", "the last number was lost with a node"]):
            done = start(site, f"counter.{language}").wait()
            assert done.returncode == 1 and done.stdout == "" and word in done.stderr
    one.node.run("echo 1000 >/dlm/web/.ex/tickets", check=True)
    assert [start(two, f"counter.{language}").wait().stdout for language in LANGUAGES] == ["1001\n", "1002\n"]


def test_a_leader_whose_node_crashes_has_a_successor(three_nodes):
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        first = start(one, "leader.py", "one sleep 100")
        first.wait_for("one leads")
        for site in (two, three):
            assert site.node.run("cat <>/dlm/web/leader", check=True).stdout == "one\n"
        second = start(two, "leader.sh", "two sleep 0.1")
        two.wait_for("[row['state'] for row in locks(web) if row['resource'] == 'leader'].count('waiting') == 1")
        one.node.crash()
        second.wait_for("two leads")
        assert three.node.run("cat <>/dlm/web/leader", check=True).stdout == "two\n"
        second.kill()
