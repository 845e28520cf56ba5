"""What a soak has shown, judged: functions of what was seen and nothing else. Each returns sentences; none: all is well.

Flat means, of the samples of one daemon, without those that a fault disturbed:

  memory   The first third is warm-up: tables grow to the size of the work. From the second third to the last, the median
           may grow by 5 % or 512 KiB, whichever is more, and the slope (Theil-Sen: the median of the slopes between all
           pairs, which outliers do not move) over these two thirds by the same. At 500
           operations a second, five bytes lost in each are seen in five minutes, and half a byte in an hour.
  files    Open files and threads: the same, by 2. With a lockspace two descriptors come and go: by 4 where a daemon was seen for
           less than five minutes, by 8 where for less than one, and a third is a few seconds.
  latency  The median of the medians of the last third is at most 1.5 times that of the first. The machine may itself
           become slower or faster meanwhile, which the probe `baseline` shows: of the plain ratio and the one divided by
           that of the baseline, the smaller counts. What grows in the daemon makes both grow. On a cluster the bound
           is 3: a lock takes turns of several guests on few CPUs, which the baseline, in one of them, sees in part. p99 is
           shown, and not judged: it is the scheduler's more than ours. Where a daemon was seen for less than a minute, a
           third is a few seconds of somebody else's work: four times the bound, for the gross.
"""

import itertools
import math
import statistics
from collections import Counter, defaultdict

from witness import parts

LEAST_SAMPLES = 12                              # of a daemon, for a judgement
MEMORY_SHARE, MEMORY_LEAST = 0.05, 512          # KiB
COUNT_LEAST = [(60, 8), (300, 4), (float("inf"), 2)]           # seen for less than so many seconds, and the bound
A_WHILE, SHORT_FACTOR = 60, 4                   # seconds
LATENCY_RATIO = {"local": 1.5, "dlm": 3}
CLOCKS = 1                                      # seconds that the clocks of guests may differ
SILENT = 60                                     # seconds of calm without a word: two calms of a long run
BASELINE = "baseline"

# What each kind of work may be told, whatever the others do; everything else is a bug. EINTR is fine for all: the signal
# that ends a run may come at any moment.
_LOCK = {"EAGAIN"}
_SPACE = {"EEXIST", "EBUSY", "EINPROGRESS", "ENOENT"}
ALLOWED = {
    "open .nl": _LOCK, "open .cr": _LOCK, "open .cw": _LOCK, "open .pr": _LOCK, "open .pw": _LOCK, "open .ex": _LOCK,
    "open": {"ENOENT"},                         # a file that somebody has unlinked
    "flock pr": _LOCK, "flock ex": _LOCK,
    "posix pr": _LOCK | {"EDEADLK"}, "posix ex": _LOCK | {"EDEADLK"}, "ofd pr": _LOCK, "ofd ex": _LOCK,
    "flock convert": _LOCK, "posix convert": _LOCK | {"EDEADLK"}, "ofd convert": _LOCK | {"EDEADLK"},
    "unlink": {"ENOENT"}, "stat": {"ENOENT"}, "chmod": {"ENOENT"}, "utime": {"ENOENT"},
    "mkdir": _SPACE, "rmdir": _SPACE, "rmdir by force": _SPACE, "force": _SPACE, "own": {"ENOENT", "ESTALE"},
    "gone": {"ESTALE"},
    "visit": _LOCK | {"ENOENT", "ESTALE", "EDEADLK"}, "visit close": {"ESTALE"},
}
ALLOWED_ON_DLM = {"count": {"EIO"}, "read": {"EIO"}}            # a value that was lost: wrongs() knows when it may be


def thirds(series):
    count = len(series) // 3
    return series[:count], series[count:len(series) - count], series[len(series) - count:]


def slope(times, values):
    """By Theil and Sen."""
    return statistics.median((v2 - v1) / (t2 - t1) for (t1, v1), (t2, v2) in
                             itertools.combinations(zip(times, values), 2) if t2 > t1)


def growth(times, values, share, least):
    """(of the medians, by the slope, bound), from the second third on."""
    _, middle, last = thirds(values)
    start = len(thirds(values)[0])
    base = statistics.median(middle)
    by_slope = slope(times[start:], values[start:]) * (times[-1] - times[start])
    return statistics.median(last) - base, by_slope, max(share * base, least)


def seen_for(samples):
    return samples[-1]["sample"] - samples[0]["since"]


def flat_figures(who, samples):
    """Of one daemon."""
    times = [sample["sample"] for sample in samples]
    count_least = next(least for seconds, least in COUNT_LEAST if seen_for(samples) < seconds)
    wrong = []
    for name, unit, share, least in [("rss", "KiB of memory", MEMORY_SHARE, MEMORY_LEAST), ("threads", "threads", 0, count_least),
                                     ("fds", "open files", 0, count_least)]:
        grown, by_slope, bound = growth(times, [sample[name] for sample in samples], share, least)
        if max(grown, by_slope) > bound:
            wrong.append(f"{who}: {unit} grow: by {grown:.0f} from the second third to the last, "
                         f"by {by_slope:.0f} by the slope; the bound is {bound:.0f}")
    return wrong


def latency_ratios(samples):
    """{kind: (median of the first third, of the last, ratio that counts)}"""
    def median(third, kind):
        return statistics.median(sample["latency"][kind][1] for sample in third)

    first, _, last = thirds(samples)
    ratios = {}
    machine = median(last, BASELINE) / median(first, BASELINE)
    for kind in samples[0]["latency"]:
        before, after = median(first, kind), median(last, kind)
        plain = after / before
        ratios[kind] = (before, after, plain if kind == BASELINE else min(plain, plain / machine))
    return ratios


def flat_latency(who, samples, bound):
    if seen_for(samples) < A_WHILE:
        bound *= SHORT_FACTOR
    return [f"{who}: {kind} takes longer: {before * 1e6:.0f} µs at first, {after * 1e6:.0f} µs in the end, "
            f"{ratio:.2f} times; the bound is {bound}"
            for kind, (before, after, ratio) in latency_ratios(samples).items()
            if kind != BASELINE and ratio > bound]


def undisturbed(samples, disturbances):
    """Those whose time has no part in a (begin, end)."""
    return [sample for sample in samples
            if not any(begin < sample["sample"] and sample["since"] < end for begin, end in disturbances)]


def is_enough(samples):
    return len(samples) >= LEAST_SAMPLES


def daemons(engine, samples_of):
    """@samples_of: {name: its samples that count}. At least one daemon must have enough of them."""
    judged = {who: samples for who, samples in samples_of.items() if is_enough(samples)}
    if not judged:
        return [f"no daemon has {LEAST_SAMPLES} samples without a fault: run it for longer"]
    return [sentence for who, samples in judged.items()
            for sentence in flat_figures(who, samples) + flat_latency(who, samples, LATENCY_RATIO[engine])]


def silence(heard, disturbances, now):
    """@heard: {life: when it last said something}. All of them do every few seconds. {life: a sentence}, of those who hang."""
    def calm(since):
        return now - since - sum(max(0, min(now, end) - max(since, begin)) for begin, end in disturbances)

    return {life: f"{life} has said nothing for {calm(since):.0f} s of calm: it hangs" for life, since in heard.items()
            if calm(since) > SILENT}


def errors(engine, reports, dead):
    """@reports: {life: [(time, {"KIND ERRNO": N})]}: what came until then; @dead: {life: when a fault ended it}."""
    counts = Counter()
    for life, told in reports.items():
        for time, some in told:
            if time < dead.get(life, math.inf) - CLOCKS:
                counts.update(some)
    allowed = {f"{kind} {name}" for table in [ALLOWED, ALLOWED_ON_DLM if engine == "dlm" else {}]
               for kind, names in table.items() for name in names}
    return [f"{what}, {count} times: that must not be" for what, count in sorted(counts.items())
            if what not in allowed and not what.endswith(" EINTR")]


def is_next(seen, found):
    """May he who wrote @found have said so, and not done it? It is one step further, or begins an epoch."""
    (epoch, number, _), (found_epoch, found_number, _) = parts(seen), parts(found)
    return found_number == (number + 1 if found_epoch == epoch else 1)


def wrongs(events, dead, losses):
    """@events: what lives said was wrong, each with its "life"; @dead: {life: when a fault ended it};
    @losses: (begin, end) of faults with which a value may be lost."""
    def has_ended(life, event):
        return life in dead and dead[life] <= event["time"] + CLOCKS

    # epochs that are begun on nodes which have been thrown out, and do not know yet
    astray = {parts(event["new"])[0] for event in events if event.get("new") and has_ended(event["life"], event)}
    sentences, half_done = [], defaultdict(set)
    for event in events:
        if has_ended(event["life"], event):
            continue
        if event["wrong"] == "exclusion" and has_ended(event["marker"].split(".", 1)[-1], event):
            continue
        if event["wrong"] == "value":
            seen, found = event["seen"], event["found"]
            if seen in (None, "0:0") and any(begin - CLOCKS <= event["time"] <= end + CLOCKS for begin, end in losses):
                continue
            epoch, _, writer = parts(found)
            if has_ended(writer, event) and epoch in astray:
                continue
            if has_ended(writer, event) and seen and is_next(seen, found):
                half_done[writer].add((event["resource"], found))
                continue
        sentences.append("wrong: " + " ".join(f"{key}={value}" for key, value in event.items()))
    return sentences + [f"{life} died once, and has not written {len(values)} values that it had announced: {sorted(values)}"
                        for life, values in half_done.items() if len(values) > 1]
