"""Nodes, daemons and lockspaces that fail, and what goes on meanwhile.

The times that matter are printed: pytest -rA shows them.
"""

import errno
import itertools
import signal
import time

import pytest

from actors import make, mounted, stopped
from cluster import wait_until

WAYS = ["flock", "posix", "ofd", "open"]
SOON = 30                                       # seconds in which something without a bound of its own must come
PROMPTLY = 0.1                                  # the bound for what must not wait for a lockspace that is stopped
CONNECTION_LOST = (errno.ECONNABORTED, errno.ENOTCONN)          # of the mount
WAIT = 2                                        # -o wait= where the cluster does not answer
ROUNDS = 5                                      # of what has a bound so short that another load of the machine can break it


@pytest.fixture
def report(record_property):
    def say(what, seconds):
        print(f"{what}: {seconds:.3f} s")
        record_property(what.replace(" ", "_"), round(seconds, 3))
    return say


def seconds_until(event, answer):
    """From just before @event until the answer has come."""
    started = time.monotonic()
    event()
    answer.result()
    return time.monotonic() - started


def wait_for_log(site, text):
    wait_until(lambda: text in site.daemon.log(), SOON, f"node {site.number}: {text}")


def leave_alone(one, cluster):
    """Node 1 of three, without quorum."""
    cluster.node(2).crash()
    cluster.node(3).crash()
    wait_until(lambda: not one.node.is_quorate(), SOON, "node 1 notices")


# --- EX is handed over -----------------------------------------------------

def test_when_the_holding_process_is_killed(sites, report):
    one, two = sites
    for way in WAYS:
        times = []
        for _ in range(3):
            holder, waiter = one.holder(way), two.waiter(way)
            times.append(seconds_until(holder.kill, waiter))
            waiter.actor.do("os.close(fd)")
        report(f"process killed, {way}", min(times))
        assert min(times) < 1 and max(times) < 5


def test_when_a_waiter_is_killed_nobody_waits_for_him(sites):
    one, two = sites
    for way in WAYS:
        holder = one.holder(way, way)
        waiters = [two.waiter(way, way), one.waiter(way, way)]
        waiters[0].actor.kill()
        two.wait_for("locks_left(web) == []")
        holder.do("os.close(fd)")
        waiters[1].result()
        waiters[1].actor.do("os.close(fd)")


def test_when_its_node_is_killed(three_nodes, report):
    """The value is lost, for everybody, until somebody writes it again."""
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        for site in (one, two, three):
            site.do("touch(web / 'r')")
        two.do("put(web / '.ex' / 'r', b'old')")
        holder = one.holder("open")
        holder.do("os.pwrite(fd, b'never published', 0)")
        waiter = two.waiter("open")
        seconds = seconds_until(one.node.crash, waiter)
        report("node killed", seconds)
        assert seconds < 5
        third = three.waiter("flock")           # not before: who of two is first is the new master's to say
        assert waiter.actor.errno("os.pread(fd, 32, 0)") == errno.EIO
        assert three.errno("get(web / 'r')") == errno.EIO
        assert not third.is_there()
        waiter.actor.do("os.pwrite(fd, b'new', 0), os.close(fd)")
        third.result()
        assert third.actor.do("os.pread(fd, 32, 0)") == b"new"
        for site in (two, three):
            assert site.do("get(web / 'r')") == b"new"


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_a_value_survives_the_master_while_its_reader_waits_to_write(three_nodes, way):
    """A lock above CR keeps the value when the master dies, also while it is converted."""
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        two.actor("fd = take('open', web, 'r', 'nl')")          # the master from here on
        one.do("put(web / '.ex' / 'r', b'kept')")
        other = three.holder("open", "r", "pr")
        reader = one.holder(way, "r", "pr")
        change = reader.start(f"lock({way!r}, fd, 'ex')")
        one.wait_for("len(waiters(web)) == 1")
        two.node.crash()
        other.do("os.close(fd)")
        change.result()
        assert reader.do("os.pread(fd, 32, 0)") == b"kept"
        reader.do("os.close(fd)")
        for site in (one, three):
            assert site.do("get(web / '.pr' / 'r')") == b"kept"


def test_a_value_survives_the_master_that_never_heard_of_its_keeper(three_nodes):
    """The first value that a mount writes, published when the master has just died and nobody knows yet. Whoever asks
    on that mount afterwards comes after that."""
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        endings = {"closed": "os.close(fd)", "lowered": "fcntl.flock(fd, fcntl.LOCK_SH)", "synced": "os.fsync(fd)"}
        two.actor(f"fds = [take('open', web, name, 'nl') for name in {[*endings, 'unlinked']}]")
        writers = {name: one.holder("flock", name) for name in [*endings, "unlinked"]}
        two.node.stop_lockspace("web")                          # it hears, and says nothing
        for writer in writers.values():
            writer.do("os.write(fd, b'kept')")
        for name in ("closed", "unlinked"):
            writers[name].do("os.close(fd)")                    # never waits
        one.do("os.unlink(web / 'unlinked')")
        changes = [writers[name].start(endings[name]) for name in ("lowered", "synced")]
        readers = {name: one.start(f"get(web / '.nl' / {name!r})") for name in endings}
        interrupted = one.start("raw_take('flock', web, 'closed', 'ex')")
        one.wait_for(f"is_queued(web, {interrupted.actor.pid})")
        interrupted.actor.signal(signal.SIGUSR1)
        assert interrupted.result() == errno.EINTR
        assert not any(answer.is_there() for answer in [*changes, *readers.values()])
        two.node.crash()
        for answer in changes:
            answer.result()
        for name, reader in readers.items():
            assert reader.result() == b"kept", name
        for site in (one, three):
            site.wait_free("unlinked")
            for name in endings:
                assert site.do(f"get(web / '.nl' / {name!r})") == b"kept", (site.number, name)
            for name in ("closed", "lowered"):
                assert site.do(f"get(web / '.pr' / {name!r})") == b"kept", (site.number, name)


def test_when_the_daemon_is_killed(sites, report):
    one, two = sites
    two.do("put(web / '.ex' / 'r', b'old')")
    holder = one.holder("open")
    own = one.waiter("flock")
    waiter = two.waiter("open")
    seconds = seconds_until(lambda: one.daemon.signal(signal.SIGKILL), waiter)
    report("daemon killed", seconds)
    assert seconds < 3
    assert waiter.actor.errno("os.pread(fd, 32, 0)") == errno.EIO
    waiter.actor.do("os.pwrite(fd, b'new', 0), os.close(fd)")
    assert two.do("get(web / '.pr' / 'r')") == b"new"
    assert own.errno() in CONNECTION_LOST
    assert holder.errno("os.pread(fd, 32, 0)") == errno.ENOTCONN
    one.dismiss()
    one.node.run("umount -l /dlm", check=True)
    one.daemon.job.wait()
    with mounted([one.node]) as (again,):       # what it had made is there still, and can be used and released
        assert again.do("os.listdir(dlm)") == ["web"]
        assert again.do("get(web / '.pr' / 'r')") == b"new"
        assert again.errno("os.rmdir(web)") == 0


# --- a lockspace is stopped ------------------------------------------------

def promptly(site, what, source):
    """Run it some times: what has a bound of 100 ms meets it."""
    times = site.do(f"[seconds_of(lambda: ({source})) for _ in range({ROUNDS})]")
    print(f"{what}: {' '.join(f'{seconds:.4f}' for seconds in times)} s")
    assert min(times) < PROMPTLY, what
    assert max(times) < 1, what                 # nor is one of them held up by the cluster


def everything_else_answers(site, stopped="web"):
    """Listing and looking; and each answers as it should, not only soon."""
    promptly(site, "ls of the mount", "os.listdir(dlm)")
    promptly(site, "ls of the lockspace", f"os.listdir(dlm / {stopped!r})")
    promptly(site, "stat", f"os.stat(dlm / {stopped!r}), os.stat(dlm / {stopped!r} / 'listed')")
    promptly(site, ".locks", f"locks(dlm / {stopped!r})")
    promptly(site, ".status", "status(dlm)")
    promptly(site, "open of a lock file and close", f"os.close(os.open(dlm / {stopped!r} / 'listed', os.O_RDWR))")
    promptly(site, "a new name", f"touch(dlm / {stopped!r} / 'new'), os.unlink(dlm / {stopped!r} / 'new')")
    assert "listed" in site.do(f"os.listdir(dlm / {stopped!r})")
    assert site.do("status(dlm)['engine']") == "dlm"


def signals_are_answered(site, modes=("ex",), lockspace="web"):
    """Whoever waits there, and however: a signal ends it, and so does SIGKILL."""
    for way, mode, what in itertools.product(WAYS, modes, ("interruption", "death")):
        times = []
        while not times or times[-1] >= PROMPTLY and len(times) < ROUNDS:
            times.append(site.do(f"{what}({way!r}, dlm / {lockspace!r}, 'busy', {mode!r})"))
        print(f"{what} of {way} {mode}: {' '.join(f'{seconds:.4f}' for seconds in times)} s")
        assert times[-1] < PROMPTLY, (way, mode, what)


@pytest.fixture
def prepared(sites):
    """Two lockspaces, web and other, both with a name listed; on node 1 somebody holds busy in web."""
    one, two = sites
    make(sites, "other")
    for site in sites:
        site.do("touch(web / 'listed'), touch(dlm / 'other' / 'listed')")
    one.do("put(web / '.ex' / 'value', b'kept')")
    two.holder("flock", "busy")
    return sites


def test_others_go_on_while_a_lockspace_is_stopped(prepared):
    one, two = prepared
    held = one.holder("flock", "held")
    waiters = [one.waiter(way, "busy") for way in WAYS]
    with stopped(prepared):
        stuck = [one.waiter(way, f"free-{way}") for way in WAYS]        # nobody has these: only the lockspace is in the way
        everything_else_answers(one)
        signals_are_answered(one, ("pr", "ex"))
        for site in prepared:
            site.wait_free("r", lockspace="other")
        promptly(one, "lock and unlock elsewhere", "is_free(dlm / 'other', 'r')")
        promptly(one, "write and read elsewhere", "put(dlm / 'other' / '.ex' / 'v', b'x'), get(dlm / 'other' / '.pr' / 'v')")
        promptly(one, "mkdir of one that is there", "errno_of(os.mkdir, web)")
        closing = held.start("os.close(fd)")        # close never waits
        closing.result()
        assert closing.seconds < 1
        assert not any(answer.is_there() for answer in waiters + stuck)
    for answer in stuck:
        answer.result()
    assert not any(answer.is_there() for answer in waiters)
    two.wait_free("held")
    two.clear()
    for _ in waiters:                           # one after the other, in the order of the DLM
        done = wait_until(lambda: [answer for answer in waiters if answer.is_there()], SOON, "the next waiter has it")
        assert len(done) == 1
        done[0].result()
        done[0].actor.do("os.close(fd)")
        waiters.remove(done[0])
    assert one.do("get(web / '.pr' / 'value')") == b"kept"


def test_a_try_in_a_stopped_lockspace_waits_and_can_be_interrupted(prepared):
    """It cannot be answered: nobody knows who holds it. But it never says that it is free or taken when it is not."""
    one, two = prepared
    with stopped(prepared):
        tries = [(way, name, one.actor()) for way in WAYS for name in ("busy", "free", "interrupted")]
        tries = [(name, actor, actor.start(f"is_free(web, {name!r}, way={way!r})")) for way, name, actor in tries]
        time.sleep(0.5)
        assert not any(answer.is_there() for _, _, answer in tries)
        for name, actor, _ in tries:
            if name == "interrupted":
                assert one.do(f"seconds_of(lambda: (os.kill({actor.pid}, 9), wait_for_exit({actor.pid})))") < 1
    for name, _, answer in tries:
        if name == "busy":
            assert answer.result() is False
    # those who try one that is free may meet each other, but the first of them has it
    assert any(answer.result() for name, _, answer in tries if name == "free")


def test_reads_and_fsync_in_a_stopped_lockspace_wait_and_end_with_a_signal(prepared):
    one, two = prepared
    writer = one.holder("open", "written")
    writer.do("os.pwrite(fd, b'later', 0)")
    with stopped(prepared):
        reading = one.start("get(web / 'value')")
        syncing = writer.start("os.fsync(fd)")
        interrupted = one.actor("fd = os.open(web / 'value', os.O_RDONLY)")
        answer = interrupted.start("raw_read(fd)")
        wait_for_a_call(one, 3)
        assert not reading.is_there() and not syncing.is_there() and not answer.is_there()
        interrupted.signal(signal.SIGUSR1)
        assert answer.result() == errno.EINTR
        everything_else_answers(one)
    assert reading.result() == b"kept"
    syncing.result()
    assert two.do("get(web / '.nl' / 'written')") == b"later"


def test_a_first_value_in_a_stopped_lockspace(prepared):
    """It is published after its keeper, and nobody waits for that but who asks for the same."""
    one, two = prepared
    writers = {name: one.holder("flock", name) for name in ("first", "killed", "both")}
    with stopped(prepared):
        for writer in writers.values():
            writer.do("os.write(fd, b'value')")
        writers["both"].do("os.pwrite(fd, b'newer', 0)")
        writers["killed"].kill()
        for name in ("first", "both"):
            writers[name].do("os.close(fd)")
        reading = one.start("get(web / 'first')")
        trying = one.start("is_free(web, 'first')")
        everything_else_answers(one)
        assert not reading.is_there() and not trying.is_there()
    assert reading.result() == b"value"
    assert trying.result()
    for name in writers:
        two.wait_free(name)
        assert two.do(f"get(web / '.nl' / {name!r})") == (b"newer" if name == "both" else b"value"), name


def test_a_daemon_killed_while_a_worker_hangs_lets_go_of_the_rest(prepared, report):
    """The worker hangs in the kernel for as long as its lockspace is stopped."""
    one, two = prepared
    one.actor("fd = take('flock', dlm / 'other', 'r')")
    waiter = two.waiter("flock", "r", lockspace="other")
    with stopped(prepared):
        stuck = one.waiter("flock", "free")
        one.node.run("until grep -q '^State:.*D' /proc/$(pgrep -x lockspacefs)/task/*/status; do sleep 0.05; done",
                     SOON, check=True)          # it does hang
        started = time.monotonic()
        one.daemon.signal(signal.SIGKILL)
        assert stuck.errno() in CONNECTION_LOST
        report("mount let go", time.monotonic() - started)
        waiter.result()
        seconds = time.monotonic() - started
        report("locks in a healthy lockspace let go", seconds)
        assert seconds < 3
        assert one.errno("os.listdir(dlm)") == errno.ENOTCONN
        one.dismiss()
        one.node.run("umount -l /dlm", check=True)
    one.daemon.job.wait()                       # only now can its last thread end
    with mounted([one.node]) as (again,):
        again.wait_free("free")
        two.clear()
        for name in ("web", "other"):
            again.wait_for(f"errno_of(os.rmdir, dlm / {name!r}) != errno.EBUSY")
        assert again.do("os.listdir(dlm)") == []


def test_writing_while_what_was_written_is_on_its_way(prepared):
    """An interrupted fsync goes on with what it had; the next takes what was written since. And who has begun to lower
    his lock has given the value away: he is told, when he writes."""
    one, two = prepared
    syncing, lowering = (one.holder("flock", name) for name in ("synced", "lowered"))
    for writer in (syncing, lowering):
        writer.do("os.pwrite(fd, b'one', 0), os.fsync(fd), os.pwrite(fd, b'two', 0)")
    with stopped(prepared):
        assert syncing.do("interrupted('fsync', fd)") == errno.EINTR
        syncing.do("os.pwrite(fd, b'three', 0)")
        assert lowering.do("interrupted('flock', fd, fcntl.LOCK_SH)") == errno.EINTR
        assert lowering.errno("os.pwrite(fd, b'three', 0)") == errno.ENOLCK
    syncing.do("os.fsync(fd)")
    assert two.do("get(web / '.nl' / 'synced')") == b"three"
    two.wait_free("lowered", "pr")
    assert two.do("get(web / '.pr' / 'lowered')") == b"two"


def in_a_thread(call, *arguments):
    """Source: that call in another thread; its errno will be in done."""
    return f"import threading; done = []; threading.Thread(target=lambda: done.append(errno_of({', '.join([call, *arguments])}))).start()"


def wait_for_a_call(site, count=1):
    """Until that many are under way on the mount."""
    waiting = "cat /sys/fs/fuse/connections/*/waiting"
    wait_until(lambda: int(site.node.run(waiting, check=True).stdout) == count, SOON, f"{count} calls on node {site.number}")


def test_a_try_for_what_is_held_waits_for_the_fsync_of_another_thread(prepared):
    """And for no other, who came first: he gives up what is tried for, and a reader on node 2 gets it."""
    one, two = prepared
    writer = one.holder("flock", "synced")
    reader = two.waiter("flock", "synced", "pr")
    writer.do("os.pwrite(fd, b'one', 0)")
    with stopped(prepared):
        for count, call in enumerate([("os.fsync", "fd"), ("fcntl.flock", "fd", "fcntl.LOCK_SH")], 1):
            writer.do(in_a_thread(*call))
            wait_for_a_call(one, count)
        trying = writer.start("fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")
    trying.result()
    reader.result()


def test_a_connection_that_breaks_in_a_stopped_lockspace(two_nodes):
    """Those who wait there for an fsync and for a lock are told, the daemon ends."""
    with mounted(two_nodes.nodes, f"wait={WAIT}") as sites:
        one, two = sites
        make(sites, "web")
        writer = one.holder("posix", "synced")
        writer.do("os.pwrite(fd, b'one', 0)")
        two.holder("flock", "busy")
        waiting = [one.waiter(way, "busy") for way in WAYS]
        with stopped(sites):
            writer.do(in_a_thread("os.fsync", "fd"))
            wait_for_a_call(one, 1 + len(WAYS))
            one.node.run("umount -i -f /dlm")
            for answer in waiting:
                assert answer.errno() in (errno.ECONNABORTED, errno.ENOTCONN)
            wait_for_log(one, "unmounted /dlm")
            one.node.run("umount -l /dlm")      # what is left of it: files are open
        one.dismiss()
        assert one.daemon.job.wait(SOON).returncode == 0


def test_closing_another_file_while_a_release_is_stuck(two_nodes):
    """A process waits there for a fcntl lock in one thread, and closes the same file, opened again, in another."""
    with mounted(two_nodes.nodes, f"wait={WAIT}") as sites:
        one, two = sites
        make(sites, "web")
        one.do("put(web / '.ex' / 'kept', b'value')")           # what the release has to read first
        busy = two.holder("flock", "busy")
        program = one.actor("fd, again = (os.open(web / 'r', os.O_RDWR | os.O_CREAT) for _ in range(2))")
        with stopped(sites):
            assert one.errno("os.rmdir(web)") == errno.EINPROGRESS
            program.do(in_a_thread("fcntl.lockf", "fd", "fcntl.LOCK_EX"))
            wait_for_a_call(one)
            program.do("os.close(again)")
        one.wait_for("'web' not in os.listdir(dlm)")
        wait_until(lambda: program.do("done") == [errno.ESTALE], SOON, "the thread has been told")
        busy.do("os.close(fd)")


def test_unlinking_while_a_release_is_stuck(two_nodes):
    """What it was about to read for later is not there any more; all goes on when the lockspace does."""
    with mounted(two_nodes.nodes, f"wait={WAIT}") as sites:
        one, two = sites
        make(sites, "web")
        for name in ("gone", "kept"):
            one.do(f"put(web / '.ex' / {name!r}, b'value')")
        busy = two.holder("flock", "busy")
        with stopped(sites):
            assert one.errno("os.rmdir(web)") == errno.EINPROGRESS
            one.do("os.unlink(web / 'gone')")
        one.wait_for("'web' not in os.listdir(dlm)")
        busy.do("os.close(fd)")
        one.make("web")
        one.wait_free("busy")


def test_what_is_given_up_while_a_node_does_not_answer_is_counted(three_nodes):
    """The kernel keeps it until that node answers or is missed: one user could fill the memory of all."""
    with mounted(three_nodes.nodes, "max_locks=10") as (one, two, three):
        make([one, two, three], "web")
        two.node.stop_lockspace("web")          # it is asked for the masters of one name in three
        for user, arguments in [("NOBODY", "'flock', fcntl.LOCK_EX"), ("SOMEBODY", "'read', ctypes.create_string_buffer(32), 32")]:
            errors = one.do(f"run_as({user}, lambda: give_up_on_many(web, {arguments}))")
            assert errors.count(errno.EINTR) >= 110 and errors[-1] == errno.ENOLCK, errors
        known = f"read-{errors.index(0)}"
        assert one.do(f"is_free(web, {known!r})")
        two.node.crash()
        one.wait_for("run_as(NOBODY, lambda: errno_of_many(web, 10)) == 0")
        assert one.do("run_as(NOBODY, lambda: errno_of_many(web, 11))") == errno.ENOLCK


def test_unmounting_publishes_what_was_written(three_nodes):
    """Also while the master of the resource is slow to say that it keeps the value."""
    with mounted(three_nodes.nodes) as (one, two, three):
        one.node.join("web")
        make([two, three], "web")
        one.wait_for("'web' in os.listdir(dlm)")
        two.actor("fd = take('open', web, 'r', 'nl')")
        writer = one.holder("flock", "r")
        two.node.freeze()                       # for no longer than this needs: else it is thrown out
        writer.do("os.write(fd, b'kept'), os.close(fd), subprocess.run(['umount', '/dlm'], check=True) and None")
        wait_for_log(one, "unmounted /dlm")
        two.node.thaw()
        one.dismiss()
        assert one.daemon.job.wait(SOON).returncode == 0
        three.wait_free("r")
        assert three.do("get(web / '.nl' / 'r')") == b"kept"
        one.node.leave("web")


def test_a_second_signal_ends_a_daemon_whose_value_is_on_its_way(three_nodes):
    with mounted(three_nodes.nodes, "wait=600", strict=False) as (one, two, three):
        one.node.join("web")
        make([two, three], "web")
        one.wait_for("'web' in os.listdir(dlm)")
        two.actor("fd = take('open', web, 'r', 'nl')")
        writer = one.holder("flock", "r")
        two.node.stop_lockspace("web")          # never says that it keeps the value
        writer.do("os.write(fd, b'lost')")
        one.daemon.signal(signal.SIGTERM)
        wait_for_log(one, "ending: 1 files are open")
        one.daemon.signal(signal.SIGTERM)
        assert one.daemon.job.wait(SOON).returncode == 0
        for site in (one, two, three):
            site.node.crash()


# --- two of three nodes are gone -------------------------------------------

def test_without_quorum_everything_is_answered_and_all_ends_well_when_it_is_back(three_nodes, report):
    with mounted(three_nodes.nodes, f"wait={WAIT}") as (one, two, three):
        make([one, two, three], "web", "gone")
        for site in (one, two, three):
            site.do("touch(web / 'listed')")
        one.do("put(web / '.ex' / 'value', b'kept')")
        held = one.holder("flock", "held")
        two.holder("flock", "busy")
        waiting = one.waiter("flock", "busy")
        two.node.crash()
        three.node.crash()
        wait_until(lambda: not one.node.is_quorate(), SOON, "node 1 notices")
        asked = [one.waiter(way, f"new-{way}") for way in WAYS]
        trying = one.start("is_free(web, 'tried')")
        everything_else_answers(one)
        signals_are_answered(one)

        making = one.start("os.mkdir(dlm / 'made')")
        one.wait_for(f"process_state({making.actor.pid}) != 'R'")
        promptly(one, "stat and .locks beside it", "os.stat(web / 'listed'), locks(web), status(dlm)")
        assert not making.is_there()
        assert one.timed("os.listdir(dlm)") < WAIT + 3          # the kernel holds the directory meanwhile
        assert making.errno() == errno.EINPROGRESS
        report("mkdir without quorum", making.seconds)
        assert making.seconds < WAIT + 3
        assert one.errno("os.mkdir(dlm / 'made')") == errno.EBUSY           # the work goes on behind
        for what in ("os.mkdir(dlm / 'second')", "os.rmdir(dlm / 'gone')"):
            answer = one.start(what)
            assert answer.errno() == errno.EINPROGRESS
            assert answer.seconds < WAIT + 3
        everything_else_answers(one)                            # and with all these pending
        signals_are_answered(one)
        held.do("os.close(fd)")
        assert not trying.is_there() and not any(answer.is_there() for answer in asked)

        for site in (two, three):
            site.node.boot(members=3)
        for site in (two, three):
            site.node.wait_ready()
        for answer in [waiting, *asked]:
            answer.result()
        assert trying.result() is True
        for name in ("made", "second"):
            one.wait_for(f"os.path.isdir(dlm / {name!r})")
            assert one.errno(f"os.mkdir(dlm / {name!r})") == errno.EEXIST
        one.wait_for("'gone' not in os.listdir(dlm)")
        one.wait_for("not os.path.exists(dlm / 'gone')")
        assert one.do("get(web / '.pr' / 'value')") == b"kept"
        with mounted([two.node]) as (back,):
            back.make("web")
            back.wait_free("held")
            assert not back.is_free("busy")
            for name in ("made", "second"):
                assert one.errno(f"os.rmdir(dlm / {name!r})") == 0


def test_mkdir_and_rmdir_that_wait_can_be_interrupted(three_nodes):
    with mounted(three_nodes.nodes[:1], "wait=30") as (one,):
        one.make("web")
        leave_alone(one, three_nodes)
        actor = one.actor()
        answer = actor.start("raw_mkdir(dlm / 'new')")
        wait_for_a_call(one)
        assert not answer.is_there()
        actor.signal(signal.SIGUSR1)
        assert answer.result() == errno.EINTR
        promptly(one, "ls of the mount", "os.listdir(dlm)")
        assert one.errno("os.mkdir(dlm / 'new')") == errno.EBUSY
        three_nodes.node(2).start(members=2)
        one.wait_for("os.path.isdir(dlm / 'new')")


def test_a_lockspace_that_is_still_being_made_at_the_end_does_not_stay(three_nodes):
    with mounted(three_nodes.nodes[:1], "wait=60") as (one,):
        one.make("web")
        leave_alone(one, three_nodes)
        actor = one.actor()
        making = actor.start("raw_mkdir(dlm / 'new')")
        wait_until(lambda: one.node.run("test -d /sys/kernel/dlm/new").returncode == 0, SOON, "it is being made")
        actor.signal(signal.SIGUSR1)
        assert making.result() == errno.EINTR
        one.do("(web / '.force').write_text('1')")              # and one whose release has to wait for that
        assert one.do("interrupted('rmdir', bytes(web))") == errno.EINTR
        one.dismiss()
        one.node.run("umount /dlm", check=True)
        wait_for_log(one, "unmounted /dlm")
        three_nodes.node(2).start(members=2)
        assert one.daemon.job.wait(SOON).returncode == 0
        assert "name" not in one.node.run("dlm_tool ls", check=True).stdout


def test_a_mkdir_without_quorum_is_content_with_what_somebody_else_makes(three_nodes):
    with mounted(three_nodes.nodes[:1], "wait=1") as (one,):    # a warning ends it
        leave_alone(one, three_nodes)
        other = one.node.popen("dlm_tool join new")             # the kernel makes one at a time
        wait_until(lambda: one.node.run("test -d /sys/kernel/dlm/new").returncode == 0, SOON, "it is being made")
        assert one.errno("os.mkdir(dlm / 'new')") == errno.EINPROGRESS
        three_nodes.node(2).start(members=2)
        assert other.wait(SOON).returncode == 0
        wait_for_log(one, "new was made by somebody else")
        one.wait_for("os.path.isdir(dlm / 'new')")
        assert one.errno("os.mkdir(dlm / 'new')") == errno.EEXIST
        assert one.errno("os.rmdir(dlm / 'new')") in (0, errno.EINPROGRESS)
        one.wait_for("not os.path.exists(dlm / 'new')")


# --- nodes that hang, and daemons of the cluster that die ------------------

def test_who_gives_up_while_a_node_dies_leaves_nobody_waiting(three_nodes):
    """What he asked for is the first lock of his node there, and the node that has to say whose it is may be the dead one."""
    names = [f"r{i}" for i in range(24)]
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        one.do("signal.signal(signal.SIGALRM, lambda number, frame: None), signal.siginterrupt(signal.SIGALRM, True)")
        one.do(f"fds = [os.open(web / name, os.O_RDWR | os.O_CREAT) for name in {names}]")
        three.node.crash()                      # which the others do not know for half a second
        one.do("results = []\n"
               "for fd in fds:\n"
               "    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
               "    results.append(raw_lock('flock', fd))\n"
               "signal.setitimer(signal.ITIMER_REAL, 0)\n"
               "for fd in fds: os.close(fd)")
        assert errno.EINTR in one.do("results")
        assert one.start(f"all(is_free(web, name) for name in {names})").result()


def test_a_frozen_node_is_thrown_out(three_nodes, report):
    """The others go on with its locks; it answers still what needs no cluster."""
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        for site in (one, two, three):
            site.do("touch(web / 'listed')")
        two.do("put(web / '.ex' / 'r', b'old')")
        holder = one.holder("open")
        holder.do("os.pwrite(fd, b'never published', 0)")
        waiter = two.waiter("open")
        seconds = seconds_until(one.node.freeze, waiter)
        report("node frozen", seconds)
        assert seconds < 5
        assert waiter.actor.errno("os.pread(fd, 32, 0)") == errno.EIO
        waiter.actor.do("os.pwrite(fd, b'new', 0)")
        one.node.throw_out()
        everything_else_answers(one)
        signals_are_answered(one)
        assert one.actor().start("os.close(os.open(web / 'x', os.O_CREAT | os.O_RDWR))").errno() == 0
        assert not three.is_free()
        waiter.actor.do("os.close(fd)")
        for site in (two, three):
            assert site.do("get(web / '.pr' / 'r')") == b"new"
        one.node.crash()
        one.node.start(members=3)
        with mounted([one.node]) as (back,):
            back.make("web")
            assert back.do("get(web / '.pr' / 'r')") == b"new"


def test_a_node_that_is_cut_off_loses_its_locks(three_nodes):
    with mounted(three_nodes.nodes) as (one, two, three):
        make([one, two, three], "web")
        for site in (one, two, three):
            site.do("touch(web / 'listed')")
        one.holder("flock")
        waiter = two.waiter("flock")
        one.node.cut()
        waiter.result()
        everything_else_answers(one)
        asked = one.waiter("flock")             # over there nobody is let in any more
        assert not asked.is_there()
        one.node.crash()


def test_dlm_controld_killed_under_the_mount(two_nodes):
    """Its lockspaces stop; the daemon goes on, and says so where something is asked of the cluster."""
    with mounted(two_nodes.nodes, "wait=3") as (one, two):
        make([one, two], "web")
        for site in (one, two):
            site.do("touch(web / 'listed')")
        one.node.run("kill -9 $(pidof dlm_controld)", check=True)
        one.node.run("until ! pidof dlm_controld; do sleep 0.05; done", SOON)
        everything_else_answers(one)
        answer = one.start("os.mkdir(dlm / 'new')")
        assert answer.errno() in (errno.ENOTCONN, errno.EINPROGRESS)
        assert answer.seconds < 6
        one.dismiss()
        one.node.run("umount /dlm", check=True)
        # the kernel may have let the lockspace go before it noticed
        wait_until(lambda: any(said in one.daemon.log() for said in ("the cluster does not answer", "lockspace web is released")),
                   SOON, "the daemon releases it, or gives up")
        one.node.crash()                        # a process that hangs in the kernel ends no other way
        two.wait_free()
