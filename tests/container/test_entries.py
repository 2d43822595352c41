"""Member names cannot leave the output folder, and the list of images packs and unpacks."""

import time
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nelbo.container.entries import MAX_IMAGES, MODES, Entry, check_entries
from nelbo.container.entry_list import pack_entries, unpack_entries
from nelbo.container.names import safe_member_path
from nelbo.errors import CorruptArchiveError, NelboError

UNSAFE = [
    "",
    "/etc/passwd",
    "//host/share",
    "..",
    "../x.png",
    "a/../../x.png",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "C:",
    "C:/x.png",
    "c:x.png",
    "a/d:x",
    "..\\x.png",
    "a\\b.png",
    "\\\\host\\share\\x",
    "NUL",
    "nul.png",
    "a/CON/b.png",
    "com1.tar.png",
    "LPT9",
    "com¹",
    "aux .png",
    "NUL:",
    "CONOUT$",
    "a.",
    "a /b",
    "... ",
    "a\0b",
    "a\nb.png",
    "a\x1b[2J.png",
    "a\x7f",
    "a\x85",
    "a\u2028b",
    "a\ud800b",
    "a" * 1025,
    "é" * 513,
]
SAFE = [
    "a.png",
    "a/b/c.png",
    "0001",
    ".hidden",
    "..a",
    "a..b",
    "ü/日本語.png",
    "nulls.png",
    "console",
    "com",
    "a b.png",
    "xy:z",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_refused(name):
    with pytest.raises(NelboError, match="no safe name") as error:
        safe_member_path(name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", SAFE)
def test_safe_names_are_kept(name):
    assert str(safe_member_path(name)) == name


@given(name=st.text(max_size=12) | st.text("./\\:aCcNnUuLl0", max_size=8))
def test_no_accepted_name_leaves_the_folder(name):
    try:
        path = safe_member_path(name)
    except NelboError:
        return
    assert isinstance(path, PurePosixPath)
    folder = Path("/out/folder")
    assert folder in Path(folder / path).resolve(strict=False).parents


names = st.from_regex(r"[ab]{0,2}[0-9]{0,3}(/[ab0é]{1,2})?[019](\.png)?", fullmatch=True, alphabet="ab0123456789é/.png")
entries = st.builds(Entry, names, st.integers(1, 300), st.integers(1, 300), st.sampled_from(MODES))


def _are_valid(images):
    try:
        check_entries(images)
    except NelboError:
        return False
    return True


@settings(max_examples=40)
@given(images=st.lists(entries, min_size=1, max_size=8, unique_by=lambda entry: entry.name))
def test_unpacking_undoes_packing(images):
    assume(_are_valid(images))
    assert unpack_entries(pack_entries(images), len(images)) == images


@pytest.mark.parametrize("template", ["{:05d}.png", "{}.png", "train/img_{:04d}_x.png", "{:03d}/a"])
def test_names_that_count_up_cost_next_to_nothing(template):
    images = [Entry(template.format(i), 32, 32, "RGB") for i in range(8, 2_008)]
    packed = pack_entries(images)
    assert unpack_entries(packed, len(images)) == images
    if not template.endswith("/a"):  # A number in a folder's name is none that counts.
        assert len(packed) < 60


def test_a_number_overflows_its_digits():
    images = [
        Entry(name, 1, 1, "L")
        for name in ("a99", "a100", "b099", "b100", "9" * 18, "1" + "0" * 18, "1" + "0" * 17 + "1")
    ]
    assert unpack_entries(pack_entries(images), len(images)) == images


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ([], "0 images"),
        ([Entry("a", 1, 1, "L"), Entry("a", 2, 2, "L")], "same name"),
        ([Entry("a", 1, 1, "L"), Entry("a/b", 2, 2, "L")], "folder"),
        ([Entry("a", 0, 1, "L")], "pixels"),
        ([Entry("a", 1, 2**20 + 1, "L")], "pixels"),
        ([Entry("a", 2**16, 2**15, "L")], "pixels"),
        ([Entry("a", 1, 1, "CMYK")], "CMYK"),
        ([Entry("../a", 1, 1, "L")], "no safe name"),
    ],
)
def test_lists_that_cannot_be_are_refused(images, problem):
    with pytest.raises(NelboError, match=problem):
        check_entries(images)


def test_every_cut_of_a_list_is_refused():
    packed = pack_entries([Entry("abc1.png", 300, 200, "RGB"), Entry("abd.png", 300, 200, "L"), Entry("x", 7, 7, "L")])
    for n_bytes in range(len(packed)):
        with pytest.raises(CorruptArchiveError):
            unpack_entries(packed[:n_bytes], 3)
    with pytest.raises(CorruptArchiveError, match="left over"):
        unpack_entries(packed + b"\0", 3)


@given(data=st.binary(max_size=40), n_images=st.integers(1, MAX_IMAGES))
def test_random_bytes_are_a_list_or_an_error(data, n_images):
    try:
        images = unpack_entries(data, n_images)
    except CorruptArchiveError:
        return
    assert len(images) == n_images
    check_entries(images)


@pytest.mark.parametrize("name", [b"abc", b"1" * 19, b"\xff"])
def test_counts_without_a_number_are_refused(name):
    run = bytes([0, len(name)]) + name + bytes([2, 1, 5, 5])
    with pytest.raises(CorruptArchiveError):
        unpack_entries(run, 2)


def test_ten_thousand_names_in_hundreds_of_folders_are_checked_at_once():
    """A folder is checked once, not for each name in it: a kilobyte that claimed 2^18 such names took minutes."""
    images = [Entry("a/" * 500 + f"{i}.png", 1, 1, "L") for i in range(10_000)]
    start = time.process_time()
    check_entries(images)
    assert time.process_time() - start < 5
    with pytest.raises(NelboError, match="folder"):
        check_entries([*images, Entry("a/a", 1, 1, "L")])


def test_names_that_are_long_together_are_refused():
    run = bytes([0, 0xE9, 7]) + b"a" * 1000 + b"1" + b"\x80\x80\x10" + bytes([1, 1, 1])
    with pytest.raises(CorruptArchiveError, match="names of the images claim more"):
        unpack_entries(run, MAX_IMAGES)
