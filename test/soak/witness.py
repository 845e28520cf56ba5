"""What has to be true of the locks, kept beside them and without them: who is inside, and how far each counter is.

A folder of the host, which every node sees (hostfs asks the host each time). mkdir, rename and listing are atomic
there, so no clock is needed to tell who came first:

    inside/RESOURCE/MODE.LIFE   that life (see client.py) is in a section with a lock of that mode. It is made after
                                the grant and goes before the unlock; of two that overlap, the later one sees both
    counters/RESOURCE=VALUE     what the value of the resource has to be. A step renames it, and then writes the value

A value is EPOCH:N@LIFE, the life being the one that wrote it, or 0:0, which nobody has written.

A life that is killed leaves its marker, and may have renamed what it did not write. So who finds something wrong only
says so; whether a death is an excuse is decided by verdict.py, which knows who died and when.
"""

import os
from pathlib import Path

from locking import COMPATIBLE


def parts(value):
    """(EPOCH, N, LIFE), of what is no value too."""
    number, _, life = value.partition("@")
    epoch, _, number = number.partition(":")
    return epoch, int(number) if number.isdigit() else -1, life


def next_value(value, life):
    epoch, number, _ = parts(value)
    return f"{epoch}:{number + 1}@{life}"


class Witness:
    def __init__(self, directory, life):
        self._inside = Path(directory) / "inside"
        self._counters = Path(directory) / "counters"
        self._life = life

    def enter(self, resource, mode):
        """The markers of those who must not be inside at the same time."""
        os.mkdir(self._inside / resource / f"{mode}.{self._life}")
        return [marker for marker in os.listdir(self._inside / resource)
                if marker.split(".")[0] not in COMPATIBLE[mode] and marker.split(".", 1)[1] != self._life]

    def leave(self, resource, mode):
        os.rmdir(self._inside / resource / f"{mode}.{self._life}")

    def counter(self, resource):
        """Its value. Renaming is atomic, but a listing may miss a name that changes meanwhile."""
        while True:
            for name in os.listdir(self._counters):
                if name.startswith(f"{resource}="):
                    return name.split("=")[1]

    def step(self, resource, old, new):
        """False: it was not at @old."""
        try:
            os.rename(self._counters / f"{resource}={old}", self._counters / f"{resource}={new}")
        except FileNotFoundError:
            return False
        return True


def make(directory, resources):
    """Nobody is inside, and every counter is at 0:0, which is written as no value at all."""
    directory = Path(directory)
    (directory / "counters").mkdir(parents=True)
    for resource in resources:
        (directory / "inside" / resource).mkdir(parents=True)
        (directory / "counters" / f"{resource}=0:0").touch()


def forget(directory, life):
    """The markers of one that is dead."""
    for marker in (Path(directory) / "inside").glob(f"*/*.{life}"):
        marker.rmdir()
