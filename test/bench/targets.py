"""What lockspacefs is to reach: each a bound on one figure of one row, so that a faster machine moves neither."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A row is picked by its group, what, on, clients and placement; None: any."""

    name: str
    group: str
    what: str
    bound: float
    against: str = None                         # the ratio to that; else the figure by its name
    figure: str = "against"
    on: str = "lockspacefs"
    clients: int = None
    placement: str = None
    at_least: bool = False

    def _row(self, rows):
        for row in rows:
            if (row["group"], row["what"], row["on"]) != (self.group, self.what, self.on):
                continue
            if self.clients not in (None, row.get("clients")) or self.placement not in (None, row.get("placement")):
                continue
            return row
        return {}

    def value(self, rows):
        """The figure, or None where that was not measured."""
        row = self._row(rows)
        return row.get("against", {}).get(self.against) if self.against else row.get(self.figure)

    def floor_value(self, rows):
        """The same of who does nothing: what can be reached at all. None, too, where that is not known."""
        return self._row(rows).get("floor", {}).get(self.against)

    def is_met(self, value):
        return value >= self.bound if self.at_least else value <= self.bound


LOCKS = ["flock+unlock", "open+flock+unlock+close"]


def of_calls():
    for what in LOCKS:
        yield Target(f"one core, {what}, to nullfs", "single-core", what, 1.10, against="nullfs")
    yield Target("one core, open+close in .ex, to nullfs with FLUSH", "single-core", "open+close in .ex", 0.80,
                 against="nullfs with FLUSH")
    for group, placement in (("two-core", "two cores"), ("unpinned", "unpinned")):
        for what in LOCKS:
            yield Target(f"{placement}, {what}, to nullfs", group, what, 0.60, against="nullfs")
    for placement in ("two cores", "unpinned"):
        for what in LOCKS:
            yield Target(f"four clients, {placement}, {what}, to nullfs", "four", what, 0.95, against="nullfs", placement=placement)
    for placement in ("one core", "two cores", "unpinned"):
        yield Target(f"{placement}, flock+unlock, to redis", "peers", "flock+unlock, redis", 1.00, against="redis",
                     clients=1, placement=placement)


def of_growth():
    for what in ("flock+unlock, N locks on one resource", "flock+unlock, N locks on N resources",
                 "open+flock+unlock+close, N locks on N resources"):
        yield Target(f"{what}, 100,000 to 10", "growth", what, 1.5, on="100,000", against="10")
    yield Target("hand-over, 10,000 waiters to 10", "growth", "hand-over, N waiters", 1.5, on="10,000", against="10")
    for what, size in (("lock file", 300), ("held lock, with its open file", 400), ("waiter, with its open file", 600)):
        yield Target(f"bytes of RSS, {what}", "memory", what, size, figure="bytes")
    yield Target("list, 1,000,000 files, in seconds", "listing", "list, N files", 3, on="1,000,000", figure="seconds")
    yield Target("list, for each file, 1,000,000 to 10,000", "listing", "list, N files", 1.5, on="1,000,000", against="10,000")


def of_guests():
    yield Target("dlm in a guest, flock+unlock, to nullfs + libdlm", "guest", "flock+unlock", 1.25, against="nullfs + libdlm")
    for what in ("flock", "open in .ex"):
        yield Target(f"dlm between two guests, hand-overs by {what}, to libdlm", "hand-over", f"{what}, 2 nodes", 0.70,
                     against="libdlm", at_least=True)


TARGETS = [*of_calls(), *of_growth(), *of_guests()]
