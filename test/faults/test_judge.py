"""The judge finds what is wrong in histories written by hand, and nothing in those that are right.

Ticks are milliseconds. A section here is asked for, begun, ended and left: "10 20 30 31".
"""

import errno

import pytest

from judge import judge
from records import Blow, Calm, History, Section, View, last_served, read_client

FAR = 100000                                    # long after everything


def section(times, client="a", node=1, mode="ex", **more):
    """@times: asked, begin, end, left; what is missing has not come."""
    asked, *rest = map(int, times.split())
    fields = dict(zip(("begin", "end", "left"), rest)) | more
    if "write" in fields:
        fields.setdefault("write_at", fields["begin"])
        fields.setdefault("written", fields["write_at"])
    return Section(client, node, asked, fields.pop("resource", "web/r"), "open", mode, False, asked, **fields)


def blow(kind, node, before, after=None, target="", phase="begins"):
    return Blow(kind, phase, node, target, before, before if after is None else after)


def history(*records, **more):
    kinds = {Section: [], View: [], Blow: []}
    for record in records:
        kinds[type(record)].append(record)
    return History(kinds[Section], kinds[View], kinds[Blow], second=1000, stopped=more.pop("stopped", FAR), **more)


def accused(*records, **more):
    return [violation.split("\n")[0] for violation in judge(history(*records, **more)).violations]


def found(said, *records, **more):
    accusations = accused(*records, **more)
    assert len(accusations) == 1 and accusations[0].startswith(said), accusations
    return True


def test_one_after_the_other_is_right_and_counted():
    records = [section("0 1 2 3"), section("0 4 5 6", "b", 2), section("0 7 8 9", "c", 2), section("0 10 11 12", "d", 3, "pr")]
    verdict = judge(history(*records))
    assert not verdict.violations
    assert verdict.figures["sections"] == 4 and verdict.figures["hand-overs"] == 2


# --- exclusion -------------------------------------------------------------

@pytest.mark.parametrize("one, other, together", [
    ("ex", "ex", False), ("ex", "pr", False), ("ex", "cr", False), ("ex", "nl", True), ("pw", "cr", True),
    ("pw", "pr", False), ("cw", "cw", True), ("cw", "pr", False), ("pr", "pr", True), ("cr", "cr", True)])
def test_two_at_once(one, other, together):
    for a, b in (one, other), (other, one):
        records = section("0 10 30 31", mode=a), section("0 20 40 41", "b", 2, mode=b)
        assert not accused(*records) if together else found("two at once", *records)


def test_other_resources_exclude_nobody():
    assert not accused(section("0 10 30 31"), section("0 20 40 41", "b", resource="web/s"))


def test_the_clock_may_be_wrong_by_so_much():
    records = section("0 10 30 31"), section("0 28 40 41", "b", 2)
    assert found("two at once", *records)
    assert not accused(*records, error=2)


def test_a_section_without_an_end_lasts():
    assert found("two at once", section("0 10"), section("0 5000 5001 5002", "b", 2))
    assert found("two at once", section("0 10"), section("0 5000", "b", 2))


@pytest.mark.parametrize("kind, target", [("client-kill", "a"), ("daemon-kill", ""), ("force", "web"), ("node-kill", ""),
                                          ("controld-kill", ""), ("quorum", "")])
def test_until_its_holder_was_struck(kind, target):
    struck = blow(kind, 1, 100, 110, target)
    assert found("two at once", section("0 10"), struck, section("0 99 102 103", "b", 2))
    assert not accused(section("0 10"), struck, section("0 101 102 103", "b", 2))


def test_a_process_may_say_late_that_it_got_what_is_lost_by_then():
    kill = blow("daemon-kill", 1, 100, 110)
    assert not accused(section("90 120"), kill, section("0 200 210 211", "b", 2))
    assert not accused(section("90 120 130 131"), kill, section("0 115 150 151", "b", 2))
    assert found("two at once", section("111 120 130 131"), kill, section("0 115 150 151", "b", 2))
    assert found("two at once", section("115 120"), kill, section("0 200 210 211", "b", 2))


@pytest.mark.parametrize("kind, node, target", [
    ("client-kill", 1, "c"), ("client-freeze", 1, "a"), ("daemon-kill", 2, ""), ("daemon-freeze", 1, ""), ("force", 1, "db"),
    ("force", 2, "web"), ("node-kill", 2, ""), ("node-pause", 1, ""), ("link-blink", 1, ""), ("link-cut", 1, "")])
def test_what_costs_nobody_his_lock(kind, node, target):
    """A link that was cut neither, before the others have noticed."""
    assert found("two at once", section("0 10"), blow(kind, node, 100, 110, target), section("0 500 502 503", "b", 3))


def test_a_node_that_the_others_went_on_without():
    """By its watchers' word; but for a second before that, since it takes them some time to be told."""
    views = [View(1, 2, True, frozenset({1, 2, 3})), View(5000, 2, True, frozenset({2, 3}))]
    cut = blow("link-cut", 1, 2000)
    held = section("0 10")
    assert found("two at once", held, *views, cut, section("0 3900 3901 3902", "b", 2))
    assert not accused(held, *views, cut, section("0 4500 4501 4502", "b", 2))
    late = section("0 4800 4900 4901", "c", 1)
    verdict = judge(history(held, *views, cut, late, section("0 4500 4850", "b", 2)))
    assert not verdict.violations and verdict.figures["granted in doubt"] == 1 and verdict.figures["misled"] == 1
    # what is done to it later is no reason
    assert not accused(held, *views, blow("link-cut", 1, 30000), section("0 5200 5201 5202", "b", 2))
    # without quorum the others may not go on
    views[1] = View(5000, 2, False, frozenset({2}))
    assert found("two at once", held, *views, cut, section("0 4500 4501 4502", "b", 2))


def test_a_node_that_knows_that_it_is_out_gets_nothing():
    views = [View(1, 2, True, frozenset({1, 2, 3})), View(5000, 2, True, frozenset({2, 3})), View(5500, 1, False, frozenset({1}))]
    assert found("granted on a node that had been thrown out", *views[:2], View(5500, 1, False, frozenset()),
                 View(5600, 1, True, frozenset({1, 2, 3})), View(7500, 1, False, frozenset()), section("7000 7001 7002 7003"))
    assert not accused(*views, section("5600 5601 5602 5603"))
    started = blow("boot", 1, 6000), View(6500, 1, True, frozenset({1, 2, 3}))
    assert not accused(*views, *started, section("7000 7001 7002 7003"))


def test_a_node_that_was_taken_back_counts_again():
    views = [View(1, 2, True, frozenset({1, 2, 3})), View(5000, 2, True, frozenset({2, 3})), View(5500, 1, False, frozenset({1})),
             View(8000, 1, True, frozenset({1, 2, 3}))]
    assert not accused(*views, section("20000 20001 20002 20003"))
    assert found("two at once", *views, section("20000 20001"), section("0 20100 20101 20102", "b", 2))
    assert found("granted on a node that had been thrown out", *views, View(8500, 1, False, frozenset()),
                 section("8001 8002 8003 8004"))


def test_nothing_is_granted_without_quorum():
    views = [View(1000, 1, True, frozenset({1, 2})), View(2000, 1, False, frozenset({1})), View(9000, 1, True, frozenset({1, 2}))]
    other = section("0 10 500 501", "b", 2)
    assert found("granted without quorum", *views, other, section("4000 4001 4002 4003"))
    assert not accused(*views, section("4000 4001 4002 4003"))         # nobody else was in that lockspace
    assert not accused(*views, other, blow("force", 2, 600, target="web"), section("4000 4001 4002 4003"))
    assert not accused(*views, other, blow("boot", 2, 600), section("4000 4001 4002 4003"))
    assert not accused(*views, other, section("4000 9001 9002 9003"))
    assert not accused(*views, other, section("8490 8500 8502 8503"))  # its watcher was told a little late
    assert not accused(*views, other, section("1990 4001 4002 4003"))  # granted before, and its process was slow


def test_who_lost_his_lock_is_told():
    kill = blow("daemon-kill", 1, 100, 110)
    assert found("its lock was gone, and nobody told it", section("0 10 2000 2001"), kill)
    assert not accused(section("0 10 2000 2001", lost=1999), kill)
    assert not accused(section("0 10 2000 2001"), blow("daemon-kill", 2, 100, 110))
    assert found("its lock was gone, and nobody told it", section("0 10 2000 2001"), blow("force", 1, 100, 110, "web"))
    assert not accused(section("0 10 2000 2001"), blow("force", 1, 100, 110, "db"))


# --- who waits -------------------------------------------------------------

def test_who_is_not_served_when_all_is_well_starves():
    assert found("starves", section("1000"), calms=[Calm(2000, None, 30000)])
    assert not accused(section("1000"), calms=[Calm(2000, 2100, 10000)])
    assert not accused(section("1000", refused=errno.EINTR, refused_at=1200), calms=[Calm(2000, None, 30000)])
    assert not accused(section("1000"), blow("client-kill", 1, 1500, target="a"), calms=[Calm(2000, None, 30000)])
    assert not accused(section("1000"), blow("boot", 1, 1500), calms=[Calm(2000, None, 30000)])
    assert not accused(section("1000"), stopped=30000)
    calms = [Calm(500, 600, 900), Calm(2000, None, 30000), Calm(60000, 70005, 73000)]
    assert found("starves", section("1000 70000 70001 70002"), calms=calms)
    assert not accused(section("1000 21000 21001 21002"), section("29000 65000 65001 65002", "b", 2), calms=calms)


def test_who_is_overtaken_without_end_starves():
    others = [section(f"{5000 + 10 * i} {5001 + 10 * i} {5002 + 10 * i} {5003 + 10 * i}", "b", 2) for i in range(30)]
    assert found("overtaken", section("1000 6000 6001 6002"), *others)
    assert not accused(section("1000 6000 6001 6002"), *others[:5])
    for when in 500, 2000:
        assert not accused(section("1000 6000 6001 6002"), blow("node-kill", 3, when), *others)
    for calm in Calm(600, None, 8000), Calm(600, 1100, 8000), Calm(600, 900, 5900):
        assert not accused(section("1000 6000 6001 6002"), blow("node-kill", 3, 500), *others, calms=[calm])
    assert found("overtaken", section("1000 6000 6001 6002"), blow("node-kill", 3, 500), *others, calms=[Calm(600, 900, 8000)])
    assert not accused(section("1000 6000 6001 6002", mode="cr"), *(
        section(f"{s.asked} {s.begin} {s.end} {s.left}", "b", 2, "pr") for s in others))


# --- values ----------------------------------------------------------------

WROTE = section("0 10 20 21", write="v1")


def reads(value, mode="pr", times="4000 5000 5010 5011", node=2, **more):
    return section(times, "r", node, mode, reads=[(int(times.split()[1]), value)], **more)


def test_the_last_value_is_read():
    second = section("0 100 110 111", "b", 2, "pw", write="v2")
    assert not accused(WROTE, second, reads("v2"))
    for mode in "pr", "pw", "ex", "cr", "cw", "nl":
        assert found("an old value", WROTE, second, reads("v1", mode))
        assert found("a value that nobody had written", WROTE, second, reads("v3", mode))
        assert found("the value is gone", WROTE, second, reads("", mode))
        assert found("a value is said to be lost", WROTE, second, reads(errno.EIO, mode))


def test_a_value_that_comes_from_the_future():
    assert found("a value that nobody had written", reads("v1", times="0 5 6 7"), WROTE)


def test_a_resource_never_written_is_empty():
    assert not accused(reads(""), section("4900 5100 5110 5111", "b", write="v2"))


def test_beside_writers_a_value_may_be_a_little_old():
    second = section("0 4800 4810 4811", "b", 3, "pw", write="v2")
    assert not accused(WROTE, second, reads("v1", "cr"))
    assert found("an old value", WROTE, second, reads("v1", "pr"))


def test_who_wrote_reads_it():
    fields = {"write": "v2", "write_at": 5000, "written": 5001}
    assert not accused(WROTE, section("4000 4990 5010 5011", "b", 2, reads=[(4995, "v1"), (5005, "v2")], **fields))
    assert found("who wrote does not read it", WROTE, section("4000 4990 5010 5011", "b", 2, reads=[(5005, "v1")], **fields))


def test_a_value_is_lost_after_a_blow_only():
    kill = blow("daemon-kill", 1, 3000)
    assert not accused(WROTE, kill, reads(""))                          # nobody kept it
    assert found("a value is said to be lost", WROTE, kill, reads(errno.EIO))
    assert not accused(WROTE, kill, reads("v1"))
    other = blow("daemon-kill", 3, 3000)
    for value in "", errno.EIO:                                         # that was just getting EX, or had it
        for times in "2900", "2900 2910", "2900 2910 2990 2991":
            assert not accused(WROTE, other, section(times, "w", 3), reads(value))
        for bystander in (section("2900", "w", 3, "pr"), section("2900", "w", 4), section("2900", "w", 3, resource="web/s"),
                          section("3100 3110 3120 3121", "w", 3), section("900 910 920 921", "w", 3),
                          section("900", "w", 3, refused=errno.EINTR, refused_at=1000)):
            assert len(accused(WROTE, other, bystander, reads(value))) == 1
    assert not accused(WROTE, blow("node-kill", 3, 3000), reads(errno.EIO))
    assert found("the value is gone", WROTE, blow("node-kill", 3, 3000), reads(""))
    assert found("a value is said to be lost", WROTE, blow("client-kill", 1, 3000, target="c"), reads(errno.EIO))
    assert found("a value is said to be lost", WROTE, blow("force", 3, 3000, target="db"), reads(errno.EIO))
    again = section("29000 30000 30010 30011", "b", 2, write="v2")
    late = reads(errno.EIO, times="0 31000 31010 31011")
    assert found("a value is said to be lost", WROTE, blow("node-kill", 3, 3000), again, late)
    started = blow("node-kill", 3, 30500, phase="ends")
    assert found("a value is said to be lost", WROTE, again, blow("node-kill", 3, 3000), started, late)
    assert not accused(WROTE, again, blow("node-hang", 3, 3000), blow("node-hang", 3, 30500, phase="ends"), late)


def test_what_a_writer_that_was_struck_wrote_is_there_or_not_but_not_both():
    struck = section("0 100", "b", 2, write="v2"), blow("client-kill", 2, 150, target="b")
    assert not accused(WROTE, *struck, reads("v1"))
    assert not accused(WROTE, *struck, reads("v2"))
    for before, after in ("v1", "v2"), ("v2", "v1"):
        first = section("4000 4900 4901 4902", "s", 3, "pr", reads=[(4900, before)])
        assert found("an old value", WROTE, *struck, first, reads(after))


def test_an_errno_under_a_lock_has_its_reason():
    """Whether of reading, or of a write, an fsync or the end."""
    for held in reads(errno.ENOTCONN), section("4000 5000 5010", node=2, failed=[(5000, errno.ENOTCONN)]):
        assert found("under a lock, ENOTCONN", WROTE, held)
        assert found("under a lock, ENOTCONN", WROTE, blow("daemon-kill", 2, 5005), held)
        assert found("under a lock, ENOTCONN", WROTE, blow("daemon-kill", 1, 4999), held)
        assert not accused(WROTE, blow("daemon-kill", 2, 4999), held)


def test_who_was_stopped_is_interrupted():
    held = section("4000 4500 5010", node=2, failed=[(5000, errno.EINTR)])
    for blows in [], [blow("client-freeze", 2, 3000, target="a")], [blow("client-freeze", 2, 5005, target="a")], \
            [blow("client-freeze", 2, 4999, target="b")], [blow("client-freeze", 2, 3000, target="a"),
                                                           blow("client-freeze", 2, 4999, target="a", phase="ends")]:
        assert found("under a lock, EINTR", WROTE, *blows, held)
    assert not accused(WROTE, blow("client-freeze", 2, 4999, target="a"), held)


def test_a_refusal_has_its_reason():
    def refused(error, way="open", is_try=False, blows=(), client="a", asked=5000):
        one = section(str(asked), client, refused=error, refused_at=asked + 1)
        one.way, one.is_try = way, is_try
        return accused(one, *blows) != []

    for way in "flock", "posix", "ofd", "open":
        assert not refused(errno.EINTR, way) and not refused(errno.EAGAIN, way, is_try=True) and refused(errno.EAGAIN, way)
        assert refused(errno.EDEADLK, way) == (way in ("flock", "open"))
        assert refused(errno.EINVAL, way) and refused(errno.ENOLCK, way, blows=[blow("daemon-kill", 1, 4000)])
    for error, kind, target in ((errno.ENOTCONN, "daemon-kill", ""), (errno.ESTALE, "force", "web"), (errno.ENOENT, "boot", "")):
        struck = blow(kind, 1, 4000, target=target)
        assert refused(error) and not refused(error, blows=[struck])
        assert refused(error, blows=[struck._replace(node=2)]) and refused(error, blows=[struck._replace(before=5002, after=5003)])
        assert refused(error, blows=[blow("daemon-freeze", 1, 4000)])
        # a second after somebody could lock again there it is too late, but for who had slept in between
        again = section("4100 4110 4120 4121", "b")
        assert not refused(error, blows=[struck, again]) and refused(error, blows=[struck, again], asked=5500)
        assert not refused(error, blows=[struck, again, blow("client-freeze", 1, 4050, target="a")], asked=5500)
    assert refused(errno.ESTALE, blows=[blow("force", 1, 4000, target="db")])


ALL = frozenset({1, 2, 3, 4, 5})
OTHERS = frozenset({1, 3, 5})
FORK = [View(0, 1, True, ALL - {2}), View(0, 3, True, ALL - {4}), *(View(1, node, True, ALL) for node in ALL),
        *(View(4600, node, True, ALL) for node in (2, 4)), *(View(5000, node, True, OTHERS) for node in OTHERS),
        *(View(8000, node, True, ALL) for node in ALL), *(View(8200, node, False, frozenset()) for node in (1, 5))]
OUT = View(9000, 3, False, frozenset())
BESIDE = section("5900 6000 6010 6011", "b", 3, write="v2")             # published without the nodes 2 and 4
AGAIN = {"times": "21000 21001 21010 21011"}


@pytest.mark.parametrize("out", [OUT, blow("boot", 3, 9000), blow("node-kill", 3, 9000)])
@pytest.mark.parametrize("mode", ["pr", "cr"])
def test_a_side_that_went_on_and_had_to_go_takes_its_values_along(out, mode):
    verdict = judge(history(WROTE, BESIDE, *FORK, out, reads("v1", mode, "20000 20001 20010 20011")))
    assert not verdict.violations and verdict.figures["rolled back"] == 1
    assert not accused(WROTE, BESIDE, *FORK, out, reads("v2", mode, "20000 20001 20010 20011"))


def test_while_one_of_that_side_is_in_its_values_stay():
    old = reads("v1", times="20000 20001 20010 20011")
    assert found("an old value", WROTE, BESIDE, *FORK, old)
    assert found("an old value", WROTE, BESIDE, *FORK, old, OUT._replace(tick=20500))
    assert found("an old value", WROTE, BESIDE, *FORK, old, OUT._replace(tick=100), blow("boot", 3, 200))


@pytest.mark.parametrize("mode", ["pr", "cr"])
def test_what_was_undone_stays_undone(mode):
    old = reads("v1", times="20000 20001 20010 20011")
    assert not accused(WROTE, BESIDE, *FORK, OUT, old, reads("v1", mode, **AGAIN))
    assert found("an old value", WROTE, BESIDE, *FORK, OUT, old, reads("v2", mode, **AGAIN))


def test_only_that_side_is_undone_and_as_a_whole():
    old = {"times": "20000 20001 20010 20011"}
    more = section("6500 6600 6610 6611", "c", 5, write="v4")
    assert not accused(WROTE, BESIDE, more, *FORK, OUT, reads("v1", **old))
    assert found("an old value", WROTE, BESIDE, more, *FORK, OUT, reads("v2", **old))
    for later in section("9400 9500 9510 9511", "c", 3, write="v3"), section("8400 8500 8510 8511", "c", 2, write="v3"):
        out = OUT._replace(tick=15000)
        assert found("an old value", WROTE, BESIDE, later, *FORK, out, reads("v1", **old))
        assert not accused(WROTE, BESIDE, later, *FORK, out, reads("v3", **old))
    kept = section("5900 6100 6110 6111", "c", 4, write="v3")           # of a node that was given up
    assert not accused(WROTE, BESIDE, kept, more, *FORK, OUT, reads("v3", **old), reads("v3", **AGAIN))
    assert found("an old value", WROTE, section("3000 3100 3110 3111", "c", 3, write="v2"), *FORK, OUT, reads("v1", **old))


def test_a_node_that_noticed_keeps_nothing_of_its_own():
    noticed = [View(5500, node, False, frozenset({2, 4})) for node in (2, 4)]
    assert found("an old value", WROTE, BESIDE, *FORK, *noticed, OUT, reads("v1", times="20000 20001 20010 20011"))


TWICE = [WROTE, section("90 100 110 111", "b", 2, write="v2"), blow("node-kill", 3, 3000), blow("node-kill", 5, 6000)]
OLD = reads("v1", times="10000 10001 10010 10011")


@pytest.mark.parametrize("mode", ["pr", "cw", "pw", "ex"])
@pytest.mark.parametrize("times", ["3500 3510 7000 7001", "3500 8000 8010 8011", "3500"])
def test_who_holds_a_lost_value_when_it_is_lost_again_makes_it_valid(mode, times):
    """Whether its process was told in time, or ever, or not."""
    verdict = judge(history(*TWICE, section(times, "h", 4, mode), blow("client-kill", 4, 9000, target="h"), OLD))
    assert not verdict.violations and verdict.figures["forgotten"] == 1


def test_once_valid_it_is_the_last_value():
    holder = section("3500 3510 7000 7001", "h", 4, "pr")
    assert not accused(*TWICE, holder, OLD, reads("v1", **AGAIN))
    assert found("an old value", *TWICE, holder, OLD, reads("v2", **AGAIN))


@pytest.mark.parametrize("holder", [
    None, section("3500 3510 3520 3521", "h", 4, "pr"), section("3500 3510 7000 7001", "h", 4, "cr"),
    section("3500 3510 7000 7001", "h", 5, "pr"), section("3500", "h", 4, "pr", refused=errno.EINTR, refused_at=4000),
    section("8000 8010 8020 8021", "h", 4, "pr"), section("3500 3510 7000 7001", "h", 4, "pr", resource="web/s"),
    section("3500 3510", "killed", 4, "pr")])
def test_nobody_else_does(holder):
    killed = blow("client-kill", 4, 5000, target="killed")
    assert found("an old value", *TWICE, killed, *([holder] if holder else []), OLD)


@pytest.mark.parametrize("second", [[], [blow("node-kill", 5, 3100)], [blow("force", 5, 6000, target="db")],
                                    [blow("node-kill", 5, 10500)], [blow("node-pause", 5, 6000)], [blow("link-cut", 5, 6000)],
                                    [blow("daemon-kill", 5, 6000)], [blow("daemon-kill", 5, 6000, phase="ends")]])
def test_a_value_that_is_lost_once_stays_marked(second):
    """Two nodes at a time are one loss."""
    assert found("an old value", *TWICE[:3], *second, section("2500 3510 10500 10501", "h", 4, "pr"), OLD)


def test_who_holds_what_he_wrote_forgets_nothing():
    assert found("an old value", WROTE, section("90 100 7000 7001", "b", 2, write="v2"), *TWICE[2:], OLD)


def test_what_was_lost_before_it_was_written_is_not_forgotten():
    again = section("7400 7500 7510 7511", "b", 2, write="v3")
    assert found("an old value", *TWICE, again, section("3500", "h", 4, "pr"), OLD)
    again = section("22400 22500 22510 22511", "b", 2, write="v3")
    assert found("an old value", *TWICE, again, blow("node-kill", 1, 26000), section("25000", "h", 4, "pr"),
                 reads("v1", times="30000 30001 30010 30011"))
    assert not accused(*TWICE, again, blow("node-kill", 1, 24000), blow("node-kill", 6, 26000), section("25000", "h", 4, "pr"),
                       reads("v1", times="30000 30001 30010 30011"))


# --- reading what a node has put down --------------------------------------

HOLE = bytes(100)
CUTS = {"nothing": b"", "a line": b"1030 wa", "a page": HOLE, "a line and a page": b"1030 wa" + HOLE, "a page before a line":
        HOLE + b"begin 2\n1050 end 2\n"}


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_not_whole_yet_has_not_been_said(tmp_path, cut):
    """It may be read while it is written, page by page."""
    path = tmp_path / "n1.1.1.1"
    path.write_bytes(b"1000 want 1 web/r flock ex 0\n1010 begin 1\n" + CUTS[cut])
    assert last_served(path) == 1000
    [section] = read_client(path, path.name, 1)
    assert (section.asked, section.begin, section.end) == (1000, 1010, None)
