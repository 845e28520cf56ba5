"""Names: every resource name has exactly one file name; lockspace names are few."""

import errno
import fcntl
import os
import stat
import string

import pytest

from lockspacefs_test import locks, opened, put, raises_errno, remove_lockspace

HEX = b"0123456789abcdefABCDEF"
CREATE = os.O_RDWR | os.O_CREAT


def encode(resource):
    """The file name of a resource, by the rule of the page."""
    name = b""
    for i, byte in enumerate(resource):
        char = bytes([byte])
        tail = resource[i + 1:i + 3]
        if (byte < 32 or byte == 127 or char == b"/" or (char == b"." and i == 0)
                or (char == b"%" and len(tail) == 2 and all(digit in HEX for digit in tail))):
            name += b"%%%02X" % byte
        else:
            name += char
    return name


def mknod(path):
    os.mknod(path, 0o644 | stat.S_IFREG)


@pytest.fixture
def web(lockspace):
    """The lockspace as bytes."""
    return os.fsencode(lockspace)


def check_name(web, name):
    """It can be made, is listed and shown in `.locks` as it is, and removed."""
    path = web + b"/" + name
    mknod(path)
    assert os.listdir(web) == [name]
    with opened(path) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        row, = locks(os.fsdecode(web))
        assert os.fsencode(row["resource"]) == name
        with raises_errno(errno.EWOULDBLOCK):   # the mode directories mean the same resource
            os.open(web + b"/.ex/" + name, os.O_RDWR | os.O_NONBLOCK)
    os.unlink(path)
    with opened(web + b"/.ex/" + name):
        row, = locks(os.fsdecode(web))
        assert os.fsencode(row["resource"]) == name
    assert os.listdir(web) == []


def check_no_name(web, name):
    """Nobody finds it and nobody makes it, here or in a mode directory."""
    for directory in [web, web + b"/.nl", web + b"/.ex"]:
        path = directory + b"/" + name
        with raises_errno(errno.ENOENT):
            os.stat(path)
        with raises_errno(errno.ENOENT):
            os.open(path, os.O_RDWR)
        with raises_errno(errno.EINVAL):
            os.open(path, CREATE)
        with raises_errno(errno.EINVAL):
            mknod(path)
    with raises_errno(errno.ENOENT):
        os.unlink(web + b"/" + name)
    assert os.listdir(web) == []


def test_the_examples_of_the_rule():
    """encode() itself, by hand."""
    for resource, name in [(b"a", b"a"), (b".", b"%2E"), (b"..", b"%2E."), (b".ex", b"%2Eex"), (b"a.b", b"a.b"),
                           (b"/", b"%2F"),
                           (b"a/b", b"a%2Fb"), (b"\n", b"%0A"), (b"\0", b"%00"), (b"\x7f", b"%7F"), (b"\x80", b"\x80"),
                           (b"%", b"%"),
                           (b"%4", b"%4"), (b"%41", b"%2541"), (b"%4a", b"%254a"), (b"%4g", b"%4g"),
                           (b"100% sure", b"100% sure"),
                           (b"%%41", b"%%2541"), (b"%a/", b"%a%2F"), (b"a b", b"a b")]:
        assert encode(resource) == name


def test_every_byte_alone_has_exactly_one_name(web):
    for byte in range(256):
        check_name(web, encode(bytes([byte])))


def test_every_byte_inside_a_name_has_exactly_one_name(web):
    for byte in range(256):
        check_name(web, encode(b"a" + bytes([byte]) + b"z"))


def test_every_byte_at_the_start_of_a_name_has_exactly_one_name(web):
    for byte in range(256):
        check_name(web, encode(bytes([byte]) + b"z"))


def test_all_bytes_in_long_names(web):
    for start in range(0, 256, 64):
        check_name(web, encode(bytes(range(start, start + 64))))


def test_escapes_that_nobody_needs_are_no_names(web):
    """%XX of a byte that is written as it is, in either case of its digits."""
    for byte in range(256):
        for escape in {b"%%%02X" % byte, b"%%%02x" % byte}:
            for prefix, suffix in [(b"", b""), (b"a", b""), (b"", b"z"), (b"a", b"z"), (b"a", b"41")]:
                resource = prefix + bytes([byte]) + suffix
                name = prefix + escape + suffix
                if name != encode(resource):
                    check_no_name(web, name)


def test_bytes_that_must_be_escaped_are_no_names_as_they_are(web):
    for byte in [*range(1, 32), 127]:
        for name in [bytes([byte]), b"a" + bytes([byte]), b"a" + bytes([byte]) + b"z"]:
            check_no_name(web, name)
    for name in [b".x", b".exx", b".a%2F", b"..a", b"..."]:
        check_no_name(web, name)


@pytest.mark.parametrize("name",
                         [b"%", b"%%", b"%4", b"%zz", b"%4g", b"%g4", b"100%", b"a%", b"50% off", b"%%%", b"%2",
                          b"% 41", b"%%2541"])
def test_a_percent_sign_that_two_hex_digits_do_not_follow_is_itself(web, name):
    check_name(web, name)


@pytest.mark.parametrize("name",
                         ["lock", "gr\u00fc\u00df", "\u9396", "a" * 64, "with blank", "-n", "~", "a:b", "a\\b", "*",
                          "?", "'", '"', "$HOME"])
def test_ordinary_names_are_themselves(web, name):
    check_name(web, name.encode())


def test_names_that_are_no_text_in_any_encoding(web):
    check_name(web, b"\xff\xfe\x80")
    check_name(web, b"\xc3")


def test_two_names_are_two_resources(web):
    with opened(web + b"/.ex/%2541"), opened(web + b"/.ex/A", os.O_RDWR | os.O_NONBLOCK), \
         opened(web + b"/.ex/%2Ea", os.O_RDWR | os.O_NONBLOCK), opened(web + b"/.ex/a", os.O_RDWR | os.O_NONBLOCK), \
         opened(web + b"/.ex/a.", os.O_RDWR | os.O_NONBLOCK):
        assert sorted(row["resource"] for row in locks(os.fsdecode(web))) == ["%2541", "%2Ea", "A", "a", "a."]


def test_a_name_has_64_bytes_at_most_after_decoding(web):
    for unit in [b"a", b"\xff", b"\x01", b"/", b"%"]:
        check_name(web, encode(unit * 64))
        for directory in [web, web + b"/.ex"]:
            path = directory + b"/" + encode(unit * 65)
            with raises_errno(errno.ENAMETOOLONG):
                os.stat(path)
            with raises_errno(errno.ENAMETOOLONG):
                os.open(path, CREATE)
            with raises_errno(errno.ENAMETOOLONG):
                mknod(path)
    with raises_errno(errno.ENAMETOOLONG):
        os.stat(web + b"/" + b"a" * 250)


def test_a_zero_byte_at_the_end_is_part_of_the_name(web):
    with opened(web + b"/.ex/a"), opened(web + b"/.ex/a%00", os.O_RDWR | os.O_NONBLOCK):
        assert sorted(row["resource"] for row in locks(os.fsdecode(web))) == ["a", "a%00"]


def test_values_belong_to_the_decoded_name(web):
    put(web + b"/.ex/a%2Fb", b"slash")
    put(web + b"/.ex/ab", b"none")
    with opened(web + b"/.pr/a%2Fb", os.O_RDONLY) as fd:
        assert os.read(fd, 100) == b"slash"
    assert sorted(os.listdir(web)) == [b"a%2Fb", b"ab"]


# --- lockspaces ------------------------------------------------------------

PUNCTUATION = "_-.:+#"


def test_a_lockspace_name_may_have_these_characters(mount):
    for name in ["a" + PUNCTUATION + "Z09", "a", "7", "_x", "-x", ":x", "+x", "#x", "plock2", "Plock", "x" * 64]:
        os.mkdir(mount / name)
        assert os.listdir(mount) == [name]
        os.rmdir(mount / name)


def test_a_lockspace_name_has_no_other_character(mount):
    allowed = (string.ascii_letters + string.digits + PUNCTUATION).encode()
    root = os.fsencode(mount) + b"/"
    for byte in range(1, 256):
        if byte in allowed or byte == ord("/"):
            continue
        for name in [bytes([byte]), b"a" + bytes([byte]), b"a" + bytes([byte]) + b"z", bytes([byte]) + b"z"]:
            with raises_errno(errno.EINVAL):
                os.mkdir(root + name)
            with raises_errno(errno.ENOENT):
                os.stat(root + name)
    assert os.listdir(mount) == []


@pytest.mark.parametrize("name", [".web", "...", "..web", ".nl", "plock", "%2Eweb", "a%41"])
def test_these_lockspace_names_are_invalid(mount, name):
    with raises_errno(errno.EINVAL):
        os.mkdir(mount / name)
    assert os.listdir(mount) == []


@pytest.mark.parametrize("length", [65, 100, 255])
def test_a_lockspace_name_has_64_bytes_at_most(mount, length):
    with raises_errno(errno.ENAMETOOLONG):
        os.mkdir(mount / ("x" * length))
    assert os.listdir(mount) == []


def test_the_lockspace_called_default_is_like_any_other(mount):
    os.mkdir(mount / "default")
    put(mount / "default" / ".ex" / "rev", b"1")
    assert os.listdir(mount / "default") == ["rev"]
    remove_lockspace(mount / "default")
    assert os.listdir(mount) == []
