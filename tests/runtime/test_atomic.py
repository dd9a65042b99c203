"""Files that are replaced atomically."""

import os

import pytest

from tlcli.artifacts.atomic import Unwritable, unfinished_files, write_atomic, write_text
from tlcli.runtime.atomic import replace_file


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_nothing_lies_beside_it(tmp_path, durable):
    path = tmp_path / "new folder" / "a.txt"
    for text in ("first", "second"):
        replace_file(path, lambda part: part.write_text(text), durable=durable)  # noqa: B023
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["a.txt"]  # noqa: PTH208
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_content(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(part):
        part.write_text("half")
        raise error

    with pytest.raises(type(error)):
        replace_file(path, write)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_part_has_the_extension_and_is_found_as_unfinished(tmp_path):
    def write(part):
        assert part.suffix == ".txt"
        part.write_text("x")
        assert unfinished_files(tmp_path) == [part]

    write_atomic(tmp_path / "a.txt", write)
    assert unfinished_files(tmp_path) == []


def test_an_error_of_the_disk_is_the_users(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unwritable, match="cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "text")
