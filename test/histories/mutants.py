"""Can these tests fail? The rules of the local engine, and what the daemon does, each broken in a copy of the source:
every one must be found."""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import campaign
import mount
from lockspacefs_test import PROJECT, Daemon

# Of local-resource.c: what is broken, what stands in the source, and what is put in its place.
MUTANTS = [
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
    ("IVVALBLK does not stick", "flags | (lock->flags & DLM_LKF_IVVALBLK), value", "flags, value"),
    ("a value that was written stays lost", "memcpy(r->value, value, VALUE_LEN);\n                r->lost = FALSE;",
     "memcpy(r->value, value, VALUE_LEN);"),
    ("a loss is not told", "return (lock->flags & DLM_LKF_VALBLK) && r->value;", "return FALSE;"),
    ("holders are not told of conversions", "enlist_queued(lock, LOCAL_LOCK_CONVERTING);\n        tell_wanted(lock->resource, lock->wanted);",
     "enlist_queued(lock, LOCAL_LOCK_CONVERTING);"),
    ("new holders are not told of those who wait", "grant_waiters(r);\n        tell_all_wanted(r);", "grant_waiters(r);"),
    ("holders are told again and again", "lock->told = wanted;", ""),
    ("compatible holders are told", "if (!mode_is_compatible(m, wanted))\n                        tell_granted(r, m, wanted);",
     "tell_granted(r, m, wanted);"),
    ("NOQUEUEBAST tells nobody", "if (flags & DLM_LKF_NOQUEUEBAST)\n                        tell_refused(lock);\n                complete_gone",
     "complete_gone"),
    ("a lock hears of its own conversion", "if (is_granted)\n                delist(lock);\n        tell_wanted(r, lock->wanted);",
     "tell_wanted(r, lock->wanted);\n        if (is_granted)\n                delist(lock);"),
]


# The same for the mount: a file of the daemon, what is broken, what stands there, what is put in its place.
MOUNT_MUTANTS = [
    ("holder.c", "two that change SH to EX get EDEADLK", "return DLM_LKF_CONVDEADLK;", "return 0;"),
    ("holder.c", "a try waits", "if (!request->wait || request->is_over_limit)", "if (request->is_over_limit)"),
    ("holder.c", "an interrupted fcntl loses the lock that it had",
     "if (lock->state == LOCK_CONVERTING && holder->by != BY_FLOCK)", "if (FALSE)"),
    ("lock.c", "who is interrupted goes on waiting", "lock_cancel(lock);\n                break;", "break;"),
    ("lock.c", "close publishes nothing", "mode_is_writer(lock->mode) ? value_flags(lock) : 0, lock->value", "0, lock->value"),
    ("lock.c", "a grant brings no value", "memcpy(lock->value, value, VALUE_LEN);", ""),
    ("lock.c", "nobody is told that somebody waits", "lock->is_asked = TRUE;", ""),
]


def compile_mutant(build, directory, file, old, new, program):
    """@program, of main.c or of engine-driver.c, with a broken file of the daemon."""
    source = (PROJECT / "src" / file).read_text(encoding="utf-8")
    if source.count(old) != 1:
        raise RuntimeError(f"{file} has this {source.count(old)} times and not once: {old!r}")
    mutant = Path(directory) / file
    mutant.write_text(source.replace(old, new), encoding="utf-8")
    libraries = subprocess.run(["pkg-config", "--cflags", "--libs", "glib-2.0", "fuse3"], check=True, capture_output=True, text=True)
    main = {"lockspacefs": "src/main.c", "engine-driver": "test/histories/engine-driver.c"}[program]
    # the broken functions come before those of the library, which are left out then
    subprocess.run(["gcc", "-std=c11", "-O1", "-D_GNU_SOURCE", "-DFUSE_USE_VERSION=314", '-DG_LOG_DOMAIN="mutant"',
                    f"-I{PROJECT / 'include'}", f"-I{build / 'src'}", "-o", Path(directory) / program, PROJECT / main, mutant,
                    build / "src" / "libcore.a", *shlex.split(libraries.stdout), "-ldlm_lt"], check=True)
    return Path(directory) / program


@contextlib.contextmanager
def engine_arena(build, file, old, new):
    with tempfile.TemporaryDirectory() as directory:
        arena = campaign.EngineArena(compile_mutant(build, directory, file, old, new, "engine-driver"), "local")
        yield arena
        arena.spoil()


@contextlib.contextmanager
def mount_arena(build, file, old, new):
    with tempfile.TemporaryDirectory(prefix="lockspacefs-") as directory:
        Path(directory).chmod(0o755)
        os.environ["LOCKSPACEFS"] = str(compile_mutant(build, directory, file, old, new, "lockspacefs"))
        with Daemon(directory) as daemon:
            daemon.excused = True
            yield campaign.MountArena(daemon.mountpoint)


def run(build, on, seed, ops):
    """The exit status: 1 if one was not found."""
    campaign.Driver.timeout = mount.TIMEOUT = 2         # seconds; a mutant may well never answer
    if on == "mount":
        arena_of, mutants = mount_arena, MOUNT_MUTANTS
    else:
        arena_of, mutants = engine_arena, [("local-resource.c", *mutant) for mutant in MUTANTS]
    missed = 0
    for file, what, old, new in mutants:
        start = time.monotonic()
        with arena_of(build, file, old, new) as arena:
            try:
                tally = campaign.run(arena, seed, ops)
                missed += 1
                print(f"NOT FOUND in {tally.ops} operations: {what}")
            except campaign.Failure as failure:
                print(f"found with seed {failure.seed}, {len(failure.ops)} operations when made short, "
                      f"{time.monotonic() - start:.1f} s: {what}")
        sys.stdout.flush()
    print(f"{len(mutants) - missed} of {len(mutants)} mutants found")
    return 1 if missed else 0
