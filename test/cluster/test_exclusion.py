"""Who has a lock on one node has it against the other, whichever way both take it."""

import errno
import select

import pytest

from actors import make, mounted

WAYS = ["flock", "posix", "ofd", "open"]


@pytest.fixture(scope="module")
def mounts(cluster_of_2):
    with mounted(cluster_of_2.nodes) as sites:
        make(sites, "web")
        yield sites


@pytest.fixture
def sites(mounts):
    """Both nodes, with the lockspace web; no lock is left in it afterwards."""
    yield mounts
    for site in mounts:
        site.clear()
    for site in mounts:
        site.wait_for("locks_left(web) == []")


# --- modes -----------------------------------------------------------------

def test_a_try_is_refused_by_the_other_node(sites):
    """All 36 pairs of modes; those that go together share the resource."""
    one, two = sites
    one.actor("fds = take_all_pairs(web)")
    assert two.do("try_all_pairs(web)") == two.do("conflicts()")
    assert len(two.do("conflicts()")) == 36 - 20                # 20 pairs share, as dlm_lock(3) has them


def test_who_waits_is_let_in_when_the_other_node_closes(sites):
    one, two = sites
    holder = one.actor("fds = take_all_pairs(web)")
    pairs = two.do("conflicts()")
    waiting = two.actor("""
got = set()
def wait_for_pair(pair):
    take("open", web, "-".join(pair), pair[1])
    got.add(pair)
for pair in conflicts():
    threading.Thread(target=wait_for_pair, args=[pair], daemon=True).start()
""")
    two.wait_for(f"len(waiters(web)) == {len(pairs)}")
    assert waiting.do("got") == set()
    for number, pair in enumerate(pairs[:3], 1):                # one by one, and nobody else gets in
        holder.do(f"os.close(fds.pop({pair}))")
        waiting.do(f"wait_until(lambda: len(got) >= {number})")
        assert two.do("len(waiters(web))") == len(pairs) - number
        assert waiting.do("got") == set(pairs[:number])
    holder.do("[os.close(fd) for fd in fds.values()] and None")
    waiting.do("wait_until(lambda: got == set(conflicts()))")
    assert two.do("waiters(web)") == []


# --- ways ------------------------------------------------------------------

def test_every_way_excludes_every_other(sites):
    one, two = sites
    one.actor(f"fds = [take(way, web, f'{{way}}-{{mode}}', mode) for way in {WAYS} for mode in ('pr', 'ex')]")
    got = two.do(f"{{(way, held, by, mode): is_free(web, f'{{way}}-{{held}}', mode, by) "
                 f"for way in {WAYS} for held in ('pr', 'ex') for by in {WAYS} for mode in ('pr', 'ex')}}")
    assert len(got) == 64
    for (way, held, by, mode), is_free in got.items():
        assert is_free == (held == mode == "pr"), (way, held, by, mode)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("held, mode", [("ex", "ex"), ("ex", "pr"), ("pr", "ex")])
def test_each_way_waits_for_the_other_node(sites, way, held, mode):
    one, two = sites
    holder = one.holder(way, "r", held)
    waiting = two.waiter(way, "r", mode)
    holder.do("os.close(fd)")
    waiting.result()
    assert not one.is_free("r", "ex", way=way)
    assert one.is_free("r", "pr", way=way) == (mode == "pr")


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_an_unlock_lets_the_other_node_in_and_a_downgrade_its_readers(sites, way):
    one, two = sites
    holder = one.holder(way)
    waiting = two.waiter(way, mode="pr")
    holder.do(f"lock({way!r}, fd, 'pr')")
    waiting.result()
    upgrade = holder.start(f"lock({way!r}, fd, 'ex')")          # waits for the reader on the other node
    one.wait_for(f"is_queued(web, {holder.pid})")
    assert not upgrade.is_there()
    waiting.actor.do(f"unlock({way!r}, fd)")
    upgrade.result()
    assert not two.is_free("r", "pr")
    holder.do(f"unlock({way!r}, fd)")
    two.wait_free()


@pytest.mark.parametrize("way", ["posix", "ofd"])
def test_two_upgrades_at_once_are_a_dead_lock_for_fcntl(sites, way):
    one, two = sites
    actors = [site.holder(way, mode="pr") for site in sites]
    answers = [actors[0].start(f"lock({way!r}, fd, 'ex')")]
    one.wait_for(f"is_queued(web, {actors[0].pid})")
    assert actors[1].errno(f"lock({way!r}, fd, 'ex')") == errno.EDEADLK
    assert not answers[0].is_there()                            # the one that was refused still has his PR
    actors[1].do("os.close(fd)")
    answers[0].result()


def test_two_upgrades_at_once_come_one_after_the_other_for_flock(sites):
    actors = [site.holder("flock", mode="pr") for site in sites]
    answers = [actor.start("lock('flock', fd, 'ex'), time.sleep(0.1), os.close(fd)") for actor in actors]
    for answer in answers:
        answer.result()


def test_getlk_says_that_somebody_elsewhere_is_in_the_way(sites):
    one, two = sites
    one.holder("posix", "r", "ex")
    assert two.do("getlk('posix', os.open(web / 'r', os.O_RDWR | os.O_CREAT))") == ("ex", 0, 0, 0, 0)
    assert two.do("getlk('posix', os.open(web / 's', os.O_RDWR | os.O_CREAT))[0]") == "un"


# --- a try, when nobody has the lock any more ------------------------------

@pytest.mark.parametrize("way", ["flock", "ofd"])
def test_a_change_that_was_given_up_is_in_nobodys_way(sites, way):
    """The first node manages the resource, so that what the second gives up takes its time."""
    one, two = sites
    one.holder("open", "r", "nl")
    assert all(two.do(f"[try_after_giving_up({way!r}, web) for _ in range(10)]"))


def test_who_only_asks_is_in_nobodys_way_on_his_node(sites):
    one, two = sites
    one.holder("open", "r", "nl")
    askers = [two.start("fd = os.open(web / 'r', os.O_RDWR | os.O_CREAT)\n"
                        "for _ in range(100): getlk('posix', fd)") for _ in range(2)]
    got = two.do("[is_free(web, 'r', way='flock') for _ in range(100)]")
    for asker in askers:
        asker.result()
    assert all(got)


# --- one after the other, often --------------------------------------------

@pytest.mark.parametrize("way", WAYS)
def test_a_counter_that_both_nodes_raise_loses_nothing(sites, way):
    rounds, writers = 10, 2
    actors = [site.actor() for site in sites for _ in range(writers)]
    before = int(sites[0].do("get(web / '.pr' / 'counter')") or b"0")
    for answer in [actor.start(f"count({way!r}, web, {rounds})") for actor in actors]:
        answer.result()
    for site in sites:
        assert int(site.do("get(web / '.pr' / 'counter')")) == before + rounds * len(actors)


# --- as people do ----------------------------------------------------------

def test_flock_1_on_two_nodes(sites):
    one, two = sites
    job = one.node.popen("exec flock /dlm/web/deploy sh -c 'echo has it; read line; echo done'", stdin=True)
    job.wait_for("has it")
    assert two.node.run("flock -n /dlm/web/deploy true").returncode == 1
    assert two.node.run("flock -n -s /dlm/web/deploy true").returncode == 1
    other = two.node.popen("flock /dlm/web/deploy echo mine")
    two.wait_for("waiters(web)")
    assert other.out() == ""
    job.send("go on\n")
    assert job.wait().stdout == "has it\ndone\n"
    assert other.wait().stdout == "mine\n"


def test_plain_redirections_on_two_nodes(sites):
    one, two = sites
    job = one.node.popen("exec 9>/dlm/web/.ex/deploy; echo has it; read line; exec 9>&-; echo closed; read line", stdin=True)
    job.wait_for("has it")
    other = two.node.popen("exec 9>/dlm/web/.ex/deploy; echo mine")
    two.wait_for("waiters(web)")
    assert other.out() == ""
    job.send("\n")
    job.wait_for("closed")
    assert other.wait().stdout == "mine\n"
    job.send("\n")
    job.wait()


# --- names -----------------------------------------------------------------

def test_every_name_is_a_lock_of_its_own_on_both_nodes(sites):
    one, two = sites
    names = ["a", "A", " ", "%2Ehidden", "%01%7F", "100%", "é", "x" * 64, "%2F" * 64, "*", "\\", "-n"]
    one.actor(f"fds = [take('open', web, name) for name in {names}]")
    assert two.do(f"[name for name in {names} if is_free(web, name)]") == []
    assert two.do("[name for name in ['b', 'x' * 63, '%2F' * 63, '  '] if not is_free(web, name)]") == []


def test_a_name_is_listed_where_it_was_made(sites):
    """O_EXCL, and so `set -C`, exclude on one node only."""
    one, two = sites
    one.do("os.close(os.open(web / 'listed', os.O_CREAT | os.O_EXCL))")
    assert "listed" in one.do("os.listdir(web)")
    assert "listed" not in two.do("os.listdir(web)")
    two.do("os.close(os.open(web / 'listed', os.O_CREAT | os.O_EXCL))")
    for site in sites:
        site.do("os.unlink(web / 'listed')")


def test_a_lock_held_across_an_unlink_still_excludes_the_other_node(sites):
    one, two = sites
    one.holder("flock", "unlinked")
    one.do("os.unlink(web / 'unlinked')")
    assert not two.is_free("unlinked", way="flock")
    assert not one.is_free("unlinked", way="flock")


# --- who waits is seen -----------------------------------------------------

@pytest.mark.parametrize("waiting", WAYS)
@pytest.mark.parametrize("way", WAYS)
def test_a_poll_is_told_that_somebody_waits_on_the_other_node(sites, way, waiting):
    one, two = sites
    holder = one.holder(way)
    assert holder.do("wait_for_poll(fd, select.POLLPRI, 0)") == 0
    told = holder.start("wait_for_poll(fd, select.POLLPRI)")
    waiter = two.waiter(waiting)
    assert told.result() == select.POLLPRI
    assert not waiter.is_there()
    holder.do("os.close(fd)")
    waiter.result()


def test_who_shares_the_lock_is_told_on_every_node_and_who_gave_up_is_not_withdrawn(sites):
    one, two = sites
    holders = [site.holder("open", mode="pr") for site in sites]
    waiter = two.waiter("open", mode="ex")
    for holder in holders:
        assert holder.do("wait_for_poll(fd, select.POLLPRI)") == select.POLLPRI
    waiter.actor.kill()
    two.wait_for("waiters(web) == []")
    for holder in holders:
        assert holder.do("wait_for_poll(fd, select.POLLPRI, 0)") == select.POLLPRI


def test_a_refused_try_on_the_other_node_tells_nobody(sites):
    one, two = sites
    holder = one.holder("open")
    assert not two.is_free("r")
    assert holder.do("wait_for_poll(fd, select.POLLPRI, 0.2)") == 0


def test_locks_shows_the_other_nodes_locks_that_are_mastered_here(sites):
    """Who uses a resource first masters it."""
    one, two = sites
    holder = one.holder("flock", "seen")
    waiter = two.waiter("flock", "seen")
    seen = "[row for row in locks(web) if row['resource'] == 'seen']"
    one.wait_for(f"len({seen}) == 2")           # the other node's request is under way
    lines = [(row["state"], row["mode"], row["wanted"], row["node"], row["by"]) for row in one.do(seen)]
    assert lines == [("held", "EX", "-", 1, "flock"), ("waiting", "-", "EX", 2, "other")]
    assert one.do(seen)[0]["pid"] == holder.pid
    assert [(row["state"], row["by"], row["pid"]) for row in two.do(seen)] == [("waiting", "flock", waiter.actor.pid)]


# --- other programs --------------------------------------------------------

@pytest.mark.parametrize("held, free", [("EX", ["nl"]), ("PW", ["nl", "cr"]), ("PR", ["nl", "cr", "pr"]),
                                        ("CW", ["nl", "cr", "cw"])])
def test_other_programs_locks_exclude_on_both_nodes(sites, held, free):
    one, two = sites
    other = one.program("web", f"lock l r {held} bast")
    other.wait_for("l granted")
    for site in sites:
        assert site.do("[mode for mode in MODES if is_free(web, 'r', mode)]") == free
    waiter = two.waiter("flock")
    other.wait_for("l blocking EX")
    other.kill()
    waiter.result()
