"""envtest's published archive of etcd, kube-apiserver and kubectl: 60 MB instead of five minutes of compiling.

Its version and checksums are pinned in `tests/support/kubernetes/envtest.sha512`. Without a network nobody waits: who does
not answer within 3 s is not asked again, and whatever goes wrong costs a line of output.
"""

import hashlib
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from platform import machine as this_machine
from queue import Empty, Queue
from typing import IO
from urllib.error import HTTPError
from urllib.response import addinfourl

PINNED = Path(__file__).parents[1] / "kubernetes" / "envtest.sha512"
RELEASES = "https://github.com/kubernetes-sigs/controller-tools/releases/download"
ANSWER_SECONDS = 3
STALL_SECONDS = 20
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class NoArchive(Exception):
    """There is none for this machine, or it cannot be had; the message says why."""


def unpack(names: Sequence[str], folder: Path, say: Callable[[str], object]) -> None:
    """Put these programs into the folder, each under its name only when the whole archive was what it should be."""
    name, checksum = pinned(PINNED.read_text())
    url = f"{RELEASES}/{name.rpartition('-')[0].rpartition('-')[0]}/{name}"
    say(f"asking for {url}")
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if _download(url, file, say) != checksum:
                raise NoArchive(f"{name} is not the file that is pinned: its SHA-512 differs")
            file.seek(0)
            _take(names, file, folder)
        except (OSError, HTTPException, tarfile.TarError) as error:  # a URLError is an OSError
            raise NoArchive(f"{name}: {getattr(error, 'reason', error)}") from error


def pinned(text: str, system: str = sys.platform, machine: str = "") -> tuple[str, str]:
    """Name and checksum of the archive for this machine."""
    ending = f"-{system}-{MACHINES.get((machine or this_machine()).lower())}.tar.gz"
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    for checksum, name in lines:
        if name.endswith(ending):
            return name, checksum
    raise NoArchive(f"envtest has no archive {ending.removeprefix('-').removesuffix('.tar.gz')}")


def _download(url: str, file: IO[bytes], say: Callable[[str], object]) -> str:
    answer = _opened(url)
    with answer:
        total, done, digest, told = (
            int(answer.headers.get("content-length") or 0),
            0,
            hashlib.sha512(),
            time.monotonic(),
        )
        say(f"downloading {total >> 20} MiB")
        while chunk := answer.read(1 << 20):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"downloaded {done >> 20} of {total >> 20} MiB")
        return digest.hexdigest()


def _opened(url: str) -> addinfourl:
    """The answer, within 3 s whatever takes its time: a name server, a firewall that drops, the server."""
    answers: Queue[addinfourl | Exception] = Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=STALL_SECONDS))
        except HTTPError as error:
            error.close()
            answers.put(NoArchive(f"{url}: {error.reason}"))
        except (OSError, HTTPException) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except Empty:
        raise NoArchive(f"no answer within {ANSWER_SECONDS} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _take(names: Sequence[str], file: IO[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        members = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
        for name in names:
            content = archive.extractfile(members[name]) if name in members else None
            if content is None:
                raise NoArchive(f"there is no {name} in it")
            partial = folder / f".{name}.partial"
            with content, partial.open("wb") as program:
                shutil.copyfileobj(content, program)
            partial.chmod(0o755)
            partial.rename(folder / name)
