"""Downloading a file completely and verified, or not at all."""

import hashlib
import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tlcli.reporter import Reporter

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0  # without receiving a byte


class DownloadFailed(Exception):
    """A failed download; the message says why."""


def download(url: str, target: Path, hash_prefix: str, reporter: Reporter) -> None:
    """Download `url` to `target`, through a file beside it that is renamed once it is verified.

    Args:
        hash_prefix: the first digits that the content's SHA-256 must have.

    Raises:
        DownloadFailed: there is no connection or no such file, the connection broke, the content
            has another hash, or it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    except OSError as error:
        raise DownloadFailed(f"{target.parent} cannot be written to: {error.strerror}") from None
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            sha256 = _transfer(url, file, target.name, reporter)
        if not sha256.startswith(hash_prefix):
            raise DownloadFailed(f"it is another file: its SHA-256 begins with {sha256[:8]}")
        part.chmod(0o644)  # mkstemp lets nobody else read it; the folder may be shared
        part.replace(target)
    except HTTPError as error:
        raise DownloadFailed(f"the server returned {error.code} {error.reason}") from None
    except URLError as error:
        raise DownloadFailed(str(error.reason)) from None
    except (OSError, HTTPException) as error:
        raise DownloadFailed(str(error) or type(error).__name__) from None
    finally:  # after Ctrl-C too
        part.unlink(missing_ok=True)


def _transfer(url: str, file: BinaryIO, name: str, reporter: Reporter) -> str:
    """Copy the content at `url` into `file` and return its SHA-256 (hex).

    Raises:
        DownloadFailed: the connection broke.
    """
    sha256 = hashlib.sha256()
    done = 0
    request = Request(url, headers={"User-Agent": "tlcli"})
    with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            sha256.update(chunk)
            done += len(chunk)
            # if the server sends no length, the progress shows one byte to go until the end
            reporter.progress(f"downloading {name}", done, max(total, done + (not total)), "bytes")
    if done < total:
        raise DownloadFailed(f"the connection broke after {done} of {total} bytes")
    if not total:
        reporter.progress(f"downloading {name}", done, done, "bytes")
    return sha256.hexdigest()
