"""What counts as a hand-over. That the guests are measured at all is test/cluster/test_bench_on_guests.py's."""

import sys

import pytest

from lockspacefs_test import PROJECT

sys.path.insert(0, str(PROJECT / "test/bench"))

from guests import LabError, handed_ratio, judge, ratio         # noqa: E402


def locks(text):
    """One a millisecond, by the numbers of nodes."""
    return [(1000 * i, int(node)) for i, node in enumerate(text)]


def judged(text, size=2):
    return judge(locks(text), size, ticks_per_us=1)


def test_each_lock_that_follows_one_of_another_node_is_a_hand_over():
    handed = judged("010101010")
    assert handed.per_second == pytest.approx(1000) and handed.retaken == 0


def test_a_lock_taken_again_is_none():
    handed = judged("0110011001")
    assert handed.per_second == pytest.approx(500, rel=0.15) and handed.retaken == pytest.approx(0.5, abs=0.1)


def test_only_the_time_counts_in_which_all_take_part():
    handed = judged("00000" "010101" "11111")
    assert handed.per_second == pytest.approx(1000) and handed.retaken == 0
    assert handed.shares == [pytest.approx(0.5, abs=0.1)] * 2


def test_shares_and_gaps_show_who_had_to_wait():
    handed = judged("0" "1" "000000000" "1" "0")
    assert min(handed.shares) < 0.2 and handed.longest_gap_ms == pytest.approx(10)


@pytest.mark.parametrize("text", ["0000", "00001111"])
def test_nodes_that_never_met_are_no_measurement(text):
    with pytest.raises(LabError):
        judged(text)


def test_ratios_compare_what_was_measured_at_the_same_time():
    assert ratio([2, 4, 6, 6], [1, 2, 3, 3]) == 2
    assert ratio([6, 12], [1, 2], [2, 4]) == 2
    slow, fast = judged("0101"), judged("01010101")._replace(per_second=2000)
    assert handed_ratio([fast, slow], [slow, slow]) == pytest.approx(1.5)
