"""Can these tests fail? The rules of the local engine, and what the daemon does, each broken in a copy of the source:
every one must be found."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from unittest import mock

import campaign
import mount
from lockspacefs_test import copy_of_the_tree

# A file of src/, what is broken, what stands there, just once, and what is put in its place.
Mutant = namedtuple("Mutant", "file what old new")

# Of local-resource.c, without its name.
RULES = [
    ("a new request overtakes waiters", "return !r->converting.first && !r->waiting.first;", "return !r->converting.first;"),
    ("a new request overtakes conversions", "return !r->converting.first && !r->waiting.first;", "return !r->waiting.first;"),
    ("waiters are granted before conversions", "if (r->converting.first)\n                return lock == r->converting.first;",
     "if (lock->state == LOCAL_LOCK_CONVERTING)\n                return lock == r->converting.first;"),
    ("queued conversions go in any order", "return lock == r->converting.first;", "return TRUE;"),
    ("QUECVT is forgotten", "return !(lock->flags & DLM_LKF_QUECVT) || !r->converting.first;", "return TRUE;"),
    ("QUECVT goes down, too", "if ((flags & DLM_LKF_QUECVT) && !is_up)", "if ((flags & DLM_LKF_QUECVT) && !is_up && mode != MODE_NL)"),
    ("EXPEDITE waits", "if (lock->flags & DLM_LKF_EXPEDITE)\n                return TRUE;", ""),
    ("NOORDER waits", "if (lock->flags & DLM_LKF_NOORDER)\n                return TRUE;\n        return !r->converting",
     "return !r->converting"),
    ("NOORDER in a queue waits", "if (lock->flags & DLM_LKF_NOORDER)\n                return TRUE;\n        if (r->converting",
     "if (r->converting"),
    ("HEADQUE goes to the end", "(lock->flags & DLM_LKF_HEADQUE) ? queue->first : NULL", "NULL"),
    ("a conversion goes before those that wait longer", "(lock->flags & DLM_LKF_HEADQUE) ? queue->first",
     "is_conversion || (lock->flags & DLM_LKF_HEADQUE) ? queue->first"),
    ("a lock stands in its own way", "uint32_t own = lock->granted == (int)m;", "uint32_t own = 0;"),
    ("dead-locks are not seen", "return TRUE;\n        return FALSE;\n}\n\n/* Conversions put at the head",
     "return FALSE;\n        return FALSE;\n}\n\n/* Conversions put at the head"),
    ("CONVDEADLK does not demote those who were overtaken",
     "if (!(lock->flags & DLM_LKF_CONVDEADLK) || lock->granted == MODE_NL)", "if (TRUE)"),
    ("a demotion is not told", "lock->status_flags |= DLM_SBF_DEMOTED;", ""),
    ("nobody gains by a demotion", "demote(lock);\n        grant_conversions(r);", "demote(lock);"),
    ("a cancelled waiter leaves the others waiting", "complete_gone(lock, -ECANCELED);\n                break;",
     "complete_gone(lock, -ECANCELED);\n                return;"),
    ("a cancelled conversion leaves the others waiting", "complete(lock, -ECANCELED);\n                break;",
     "complete(lock, -ECANCELED);\n                return;"),
    ("an unlock grants conversions alone", "complete_gone(lock, 0);\n        grant_queued(r);",
     "complete_gone(lock, 0);\n        grant_conversions(r);"),
    ("a conversion grants nobody", "grant(lock, value);\n                grant_queued(lock->resource);", "grant(lock, value);"),
    ("EX to EX writes no value", "mode_is_writer(from) && to <= (LockMode)from;", "mode_is_writer(from) && to < (LockMode)from;"),
    ("PR to CR reads the value", "return from == LOCAL_MODE_NONE || (to >= (LockMode)from",
     "return from == LOCAL_MODE_NONE || (to + 1 >= from"),
    ("CW writes the value", "return from != LOCAL_MODE_NONE && mode_is_writer(from)", "return from != LOCAL_MODE_NONE && from != MODE_PR && from >= MODE_CW"),
    ("an unlock writes unasked", "if (!(lock->flags & DLM_LKF_VALBLK))\n                flags = 0;", ""),
    ("an unlock writes nothing", "write_value(r, flags | (lock->flags & DLM_LKF_IVVALBLK), value);", ";"),
    ("IVVALBLK does not stick", "flags | (lock->flags & DLM_LKF_IVVALBLK), value", "flags, value"),
    ("a value that was written stays lost", "memcpy(r->value, value, VALUE_LEN);\n                r->lost = FALSE;",
     "memcpy(r->value, value, VALUE_LEN);"),
    ("a loss is not told", "return (lock->flags & DLM_LKF_VALBLK) && r->has_value;", "return FALSE;"),
    ("holders are not told of waiters", "enlist_queued(lock, LOCAL_LOCK_WAITING);\n                tell_wanted(r, mode);",
     "enlist_queued(lock, LOCAL_LOCK_WAITING);"),
    ("holders are not told of conversions", "enlist_queued(lock, LOCAL_LOCK_CONVERTING);\n        tell_wanted(lock->resource, lock->wanted);",
     "enlist_queued(lock, LOCAL_LOCK_CONVERTING);"),
    ("new holders are not told of those who wait", "grant_waiters(r);\n        tell_all_wanted(r);", "grant_waiters(r);"),
    ("holders are told again and again", "lock->told = wanted;", ""),
    ("who fails to convert hides others that were not told", "while (next && next->told < lock->told)", "while (FALSE)"),
    ("compatible holders are told", "if (!mode_is_compatible(m, wanted))\n                        tell_granted(r, m, wanted);",
     "tell_granted(r, m, wanted);"),
    ("NOQUEUEBAST tells nobody", "if (flags & DLM_LKF_NOQUEUEBAST)\n                        tell_refused(lock);\n                complete_gone",
     "complete_gone"),
    ("a lock hears of its own conversion", "if (is_granted)\n                delist(lock);\n        tell_wanted(r, lock->wanted);",
     "tell_wanted(r, lock->wanted);\n        if (is_granted)\n                delist(lock);"),
]

MUTANTS = {
    "engine": [Mutant("local-resource.c", *rule) for rule in RULES] + [Mutant(*row) for row in [
        ("engine-local.c", "a value outlives the last lock", "local_resource_forget_value(resource);", ""),
        ("mode.c", "PR is granted beside CW", "[MODE_CW] = { TRUE,  TRUE,  TRUE,  FALSE,", "[MODE_CW] = { TRUE,  TRUE,  TRUE,  TRUE,"),
        ("mode.c", "CR waits for PW", "[MODE_PW] = { TRUE,  TRUE,", "[MODE_PW] = { TRUE,  FALSE,"),
    ]],
    "mount": [Mutant(*row) for row in [
        ("holder.c", "two that change SH to EX get EDEADLK", "return DLM_LKF_CONVDEADLK;", "return 0;"),
        ("holder.c", "a try waits", "if (!request->wait || request->is_over_limit)", "if (request->is_over_limit)"),
        ("holder.c", "an interrupted fcntl loses the lock that it had",
         "if (lock->state == LOCK_CONVERTING && holder->by != BY_FLOCK)", "if (FALSE)"),
        ("holder.c", "who waits for a waiter is not followed",
         "is_cycle = waits(other) && follow(&search, other);", ""),
        ("holder.c", "the queue before who asks is not looked at", "modes |= note_modes(holder->resource);", ""),
        ("holder.c", "the queue before others is not looked at", "lock_has(lock) ? 1u << lock->wanted : modes;", "1u << lock->wanted;"),
        ("holder.c", "a conversion waits for itself", "if (lock == own || ", "if ("),
        ("holder.c", "fsync publishes nothing", "if (r == 0 && lock && lock_has(lock) && lock->dirty)", "if (FALSE)"),
        ("lock.c", "who is interrupted goes on waiting", "lock_free(lock);\n                else\n                        lock_cancel(lock);",
         "lock_free(lock);"),
        ("lock.c", "who is interrupted goes on converting", "/* unlocked in its turn */\n                else\n                        lock_cancel(lock);", ""),
        ("lock.c", "close publishes nothing", "lock->id, flags, lock->value", "lock->id, 0, lock->value"),
        ("lock.c", "a grant brings no value", "memcpy(lock->value, value, VALUE_LEN);\n        lock->lost = (", "lock->lost = ("),
        ("lock.c", "nobody is told that somebody waits", "lock->is_asked = TRUE;", ""),
    ]],
}

PROGRAMS = {"engine": "test/histories/engine-driver", "mount": "src/lockspacefs"}


class Copy:
    """A copy of the source with a build of its own, in which only what is broken is compiled again."""

    def __init__(self, directory):
        self.tree = copy_of_the_tree(Path(directory))
        self._run("meson", "setup", "build", "-Dbuildtype=plain", "-Db_lto=false")

    def make(self, on, mutant):
        """The program that is played on, with this broken; None: nothing."""
        if mutant is None:
            return self._ninja(PROGRAMS[on])
        source = self.tree / "src" / mutant.file
        whole = source.read_text(encoding="utf-8")
        if whole.count(mutant.old) != 1:
            raise RuntimeError(f"{mutant.file} has this {whole.count(mutant.old)} times and not once: {mutant.old!r}")
        source.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            return self._ninja(PROGRAMS[on])
        finally:
            source.write_text(whole, encoding="utf-8")

    def _ninja(self, program):
        self._run("ninja", "-C", "build", program)
        return self.tree / "build" / program

    def _run(self, *command):
        done = subprocess.run(command, cwd=self.tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}")


@contextlib.contextmanager
def arena_of(on, program, excused):
    with contextlib.ExitStack() as stack:
        if on == "engine":
            arena = campaign.EngineArena(program, "local")
        else:
            stack.enter_context(mock.patch.dict(os.environ, LOCKSPACEFS=str(program)))
            arena = stack.enter_context(campaign.mounted(excused=excused))
        stack.callback(arena.spoil)
        yield arena


def find(copy, on, mutant, seed, ops):
    """The Failure by which it is found; None: it is not. Of None itself there must be none."""
    with arena_of(on, copy.make(on, mutant), excused=mutant is not None) as arena:
        try:
            campaign.run(arena, seed, ops, shrinks=False)
        except campaign.Failure as failure:
            return failure
    return None


def run(on, seed, ops):
    """The exit status: 1 if one was not found."""
    campaign.Driver.timeout = mount.TIMEOUT = 5         # seconds; a mutant may well never answer
    missed = 0
    with tempfile.TemporaryDirectory(prefix="lockspacefs-") as directory:
        copy = Copy(directory)
        if failure := find(copy, on, None, seed, ops):
            print(f"nothing was broken, and yet: {failure.reason}")
            return 1
        for mutant in MUTANTS[on]:
            failure = find(copy, on, mutant, seed, ops)
            missed += failure is None
            how = f"found in {failure.played} operations" if failure else f"NOT FOUND in {ops} operations"
            print(f"{how}: {mutant.what}" + (f" ({str(failure.reason)[:100]})" if failure else ""))
            sys.stdout.flush()
    print(f"{len(MUTANTS[on]) - missed} of {len(MUTANTS[on])} mutants found")
    return 1 if missed else 0
