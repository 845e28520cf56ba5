"""The histories find what is broken: some of the mutants, the others by `run --mutants`, which takes some minutes."""

import tempfile

import pytest

import mutants
from lockspacefs_test import PROJECT

OPERATIONS = {"engine": 5000, "mount": 1000}
SOME = [("engine", "PR is granted beside CW"), ("engine", "an unlock writes nothing"), ("mount", "a grant brings no value")]


@pytest.fixture(scope="module")
def copy():
    with tempfile.TemporaryDirectory(prefix="lockspacefs-") as directory:
        yield mutants.Copy(directory)


def test_what_mutants_replace_is_there_once():
    every = [mutant for some in mutants.MUTANTS.values() for mutant in some]
    hits = {mutant: (PROJECT / "src" / mutant.file).read_text(encoding="utf-8").count(mutant.old) for mutant in every}
    assert hits and not {mutant: count for mutant, count in hits.items() if count != 1}


@pytest.mark.parametrize("on", OPERATIONS)
def test_where_nothing_is_broken_nothing_is_found(copy, on):
    assert mutants.find(copy, on, None, 1, OPERATIONS[on]) is None


@pytest.mark.parametrize("on, what", SOME)
def test_what_is_broken_is_found(copy, on, what):
    mutant, = [mutant for mutant in mutants.MUTANTS[on] if mutant.what == what]
    assert mutants.find(copy, on, mutant, 1, OPERATIONS[on])
