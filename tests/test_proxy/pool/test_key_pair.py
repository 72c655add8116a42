"""The key pair that tokens are sealed to: kept by its folder, replaced when that holds something else, told to nobody."""

import base64
import logging
import stat
from pathlib import Path

import pytest

from oauth_pool_proxy.pool.key_pair import FILE, KeyPair, key_pair_in


def test_a_container_that_restarts_has_its_key_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        first = key_pair_in(tmp_path)
        assert key_pair_in(tmp_path).public == first.public
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert len(base64.b64decode(first.public)) == 32
    assert caplog.records == []


def test_two_pods_have_two_keys(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    assert key_pair_in(folders[0]).public != key_pair_in(folders[1]).public


@pytest.mark.parametrize(
    "content",
    [b"", b"rubbish of a test", b"\xff\xfe", base64.b64encode(b"short"), base64.b64encode(bytes(33)), b"A" * 5000],
    ids=["empty", "no base64", "no text", "short", "long", "very long"],
)
def test_rubbish_is_replaced_with_a_warning_that_does_not_quote_it(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        pair = key_pair_in(tmp_path)
    (record,) = caplog.records
    assert "holds something else" in record.message
    assert "rubbish of" not in repr(record.__dict__)
    assert key_pair_in(tmp_path).public == pair.public


def test_what_a_crash_left_behind_is_in_nobody_s_way(tmp_path: Path) -> None:
    (tmp_path / f".{FILE}.new").write_text("half")
    pair = key_pair_in(tmp_path)
    assert key_pair_in(tmp_path).public == pair.public
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (tmp_path / "elsewhere").write_text("untouched")
    (folder / FILE).symlink_to(tmp_path / "elsewhere")
    pair = key_pair_in(folder)
    assert key_pair_in(folder).public == pair.public
    assert (tmp_path / "elsewhere").read_text() == "untouched"


@pytest.mark.parametrize("trouble", ["no folder", "a file in its place", "no writing", "a folder in the file's place"])
def test_without_a_folder_that_can_be_written_the_key_is_in_memory_only(
    trouble: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "keys"
    if trouble == "a file in its place":
        folder.write_text("")
    elif trouble == "a folder in the file's place":
        (folder / FILE).mkdir(parents=True)
    elif trouble == "no writing":
        folder.mkdir()

        def refuse(self: Path, target: Path) -> Path:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(Path, "rename", refuse)
    with caplog.at_level(logging.WARNING):
        pair = key_pair_in(folder)
    assert len(base64.b64decode(pair.public)) == 32
    assert (
        caplog.records[-1].message == "the private key is in memory only; a restart of the container needs the operator"
    )
    if folder.is_dir():
        assert [path.name for path in folder.iterdir() if path.is_file()] == []


def test_nothing_shows_the_private_key(tmp_path: Path) -> None:
    pair = key_pair_in(tmp_path)
    secret = (tmp_path / FILE).read_text().strip()
    shown = f"{pair} {pair!r}"
    assert shown == f"<KeyPair {pair.id}> <KeyPair {pair.id}>"
    assert secret not in shown and secret != pair.public
    assert isinstance(pair, KeyPair) and not hasattr(pair, "private_key")
