"""A value that is written on one node is read on the others."""

import errno

import pytest

from actors import make, mounted

READ = "get(web / 'r')"                         # without a lock
READ_LOCKED = "get(web / '.pr' / 'r')"


@pytest.fixture(scope="module")
def mounts(cluster_of_3):
    with mounted(cluster_of_3.nodes) as sites:
        make(sites, "web")
        yield sites


@pytest.fixture
def sites(mounts):
    """Three nodes, with the lockspace web, in it r; no lock is left in it afterwards and no value of r."""
    for site in mounts:
        site.do("touch(web / 'r')")
    yield mounts
    for site in mounts:
        site.clear()
    for site in mounts:
        site.wait_for("locks_left(web) == []")
        site.errno("os.unlink(web / 'r')")


def read_everywhere(sites, resource="r"):
    """Under a lock, which waits for who writes, then without: what all the nodes say, which is one thing."""
    seen = {site.do(f"get(web / {where!r} / {resource!r})") for where in (".pr", ".ex", ".nl", ".") for site in sites}
    assert len(seen) == 1, seen
    return seen.pop()


# --- written, read ---------------------------------------------------------

def test_as_the_readme_has_it(sites):
    one, two, three = sites
    one.node.run('echo "rev 42" >/dlm/web/.ex/rev', check=True)
    for site in sites:
        assert site.node.run("cat /dlm/web/.pr/rev; cat /dlm/web/.nl/rev").stdout == "rev 42\nrev 42\n"
    three.node.run('echo "rev 43" >/dlm/web/.ex/rev', check=True)
    assert two.node.run("cat /dlm/web/.pr/rev").stdout == "rev 43\n"


def test_never_written_is_empty_everywhere(sites):
    assert read_everywhere(sites) == b""


@pytest.mark.parametrize("mode", ["pw", "ex"])
def test_every_node_writes_and_every_node_reads(sites, mode):
    for writer in sites:
        value = b"by node %d" % writer.number
        writer.do(f"put(web / '.{mode}' / 'r', {value!r})")
        assert read_everywhere(sites) == value


def test_all_32_bytes_travel(sites):
    one, two, three = sites
    value = bytes(range(224, 256))
    one.do(f"put(web / '.ex' / 'r', {value!r})")
    assert read_everywhere(sites) == value
    assert two.errno("put(web / '.ex' / 'r', bytes(33))") == errno.EFBIG
    three.do("put(web / '.ex' / 'r', b'\\0\\1\\0')")
    assert read_everywhere(sites) == b"\0\1"
    for site in sites:
        assert site.do("os.getxattr(web / 'r', 'user.value')") == b"\0\1" + bytes(30)


def test_append_and_truncate_act_on_what_another_node_wrote(sites):
    one, two, three = sites
    one.node.run("printf one >/dlm/web/.ex/r", check=True)
    two.node.run("printf ,two >>/dlm/web/.ex/r", check=True)
    assert read_everywhere(sites) == b"one,two"
    three.node.run(": >/dlm/web/.ex/r", check=True)
    assert read_everywhere(sites) == b""


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_under_flock_and_fcntl_too(sites, way):
    one, two, three = sites
    writer = one.holder(way)
    writer.do("os.pwrite(fd, b'by a lock', 0)")
    reader = two.waiter(way, mode="pr")
    writer.do(f"unlock({way!r}, fd)")
    reader.result()
    assert reader.actor.do("os.pread(fd, 64, 0)") == b"by a lock"
    assert three.do(READ) == b"by a lock"


# --- when others see it ----------------------------------------------------

def test_others_see_it_when_the_file_is_closed(sites):
    one, two, three = sites
    one.do("put(web / '.ex' / 'r', b'old')")
    writer = one.holder("open")
    writer.do("os.pwrite(fd, b'new', 0)")
    assert writer.do("os.pread(fd, 64, 0)") == b"new"
    assert [site.do(READ) for site in sites] == [b"old"] * 3
    writer.do("os.close(fd)")
    assert read_everywhere(sites) == b"new"


def test_fsync_publishes_and_keeps_the_lock(sites):
    one, two, three = sites
    writer = one.holder("open")
    for value in (b"first", b"second"):
        writer.do(f"os.pwrite(fd, {value!r}, 0), os.ftruncate(fd, {len(value)}), os.fsync(fd)")
        assert [site.do(READ) for site in sites] == [value] * 3
        assert not two.is_free("r", "pr")


@pytest.mark.parametrize("way", ["flock", "posix", "ofd"])
def test_lowering_the_lock_publishes(sites, way):
    one, two, three = sites
    writer = one.holder(way)
    writer.do("os.pwrite(fd, b'lowered', 0)")
    assert three.do(READ) == b""
    writer.do(f"lock({way!r}, fd, 'pr')")
    assert two.do(READ_LOCKED) == three.do(READ) == b"lowered"


def test_who_waited_reads_what_was_written_before_his_grant(sites):
    one, two, three = sites
    writer = one.holder("open")
    readers = [two.waiter("open", mode="pr"), three.waiter("open", mode="cr")]
    writer.do("os.pwrite(fd, b'at last', 0), os.close(fd)")
    for reader in readers:
        reader.result()
        assert reader.actor.do("os.pread(fd, 64, 0)") == b"at last"


def test_a_killed_writer_has_closed(sites):
    """The file system cannot tell one from the other; a node or a daemon that dies is another matter."""
    one, two, three = sites
    writer = one.holder("open")
    writer.do("os.pwrite(fd, b'last words', 0)")
    writer.kill()
    two.wait_free()
    assert read_everywhere(sites) == b"last words"


# --- how long it lives -----------------------------------------------------

def test_it_lives_while_it_is_listed_where_it_was_written(sites):
    one, two, three = sites
    one.do("put(web / '.ex' / 'r', b'listed')")
    for _ in range(3):
        assert read_everywhere(sites) == b"listed"
    for site in (two, three):                   # not where it was only read
        site.do("os.unlink(web / 'r'), touch(web / 'r')")
        assert read_everywhere(sites) == b"listed"
    one.do("os.unlink(web / 'r'), touch(web / 'r')")
    for site in sites:
        site.wait_for(f"{READ} == b''")
    assert read_everywhere(sites) == b""


def test_each_mount_that_wrote_keeps_it(sites):
    one, two, three = sites
    one.do("put(web / '.ex' / 'r', b'one')")
    two.do("put(web / '.ex' / 'r', b'two')")
    one.do("os.unlink(web / 'r'), touch(web / 'r')")
    assert read_everywhere(sites) == b"two"
    two.do("os.unlink(web / 'r')")
    three.wait_for(f"{READ} == b''")


def test_a_lock_of_any_node_keeps_it_too(sites):
    one, two, three = sites
    one.do("put(web / '.ex' / 'r', b'held')")
    holder = three.holder("open", mode="nl")
    one.do("os.unlink(web / 'r'), touch(web / 'r')")
    assert read_everywhere(sites) == b"held"
    holder.do("os.close(fd)")
    two.wait_for(f"{READ} == b''")


# --- other programs --------------------------------------------------------

def test_values_go_to_and_come_from_other_programs(sites):
    one, two, three = sites
    one.do("put(web / '.ex' / 'r', b'ours')")
    reader = two.program("web", "lock r r PR valblk")
    reader.wait_for("r granted PR value=ours")
    reader.kill()
    reader.wait()
    writer = three.program("web", "lock w r EX valblk", "wait", "unlock w value=theirs", "wait", "quit")
    assert writer.wait().returncode == 0
    assert read_everywhere(sites) == b"theirs"


def lose_value(sites):
    one, two, three = sites
    one.do("put(web / '.ex' / 'r', b'before')")
    writer = two.program("web", "lock w r EX valblk")
    writer.wait_for("w granted")
    writer.kill()
    three.wait_free()


def test_another_program_that_dies_with_ex_has_lost_it(sites):
    """EIO on every node until somebody writes it again."""
    three = sites[2]
    lose_value(sites)
    for site in sites:
        assert site.errno(READ) == site.errno(READ_LOCKED) == errno.EIO
    three.do("put(web / '.ex' / 'r', b'after')")
    assert read_everywhere(sites) == b"after"


def test_a_command_is_told_that_the_value_is_lost(sites):
    """lockspacefs run: and what the command writes is the value."""
    one, _, three = sites
    lose_value(sites)
    show = 'echo "${LOCKSPACEFS_VALUE-unset} $LOCKSPACEFS_VALUE_LOST"'
    run = f"""exec "$LOCKSPACEFS" run /dlm/web/r sh -c '{show}; echo again >"$LOCKSPACEFS_VALUE_FILE"'"""
    assert one.node.run(run, check=True).stdout == "unset 1\n"
    assert three.node.run(run, check=True).stdout == "again \n"
