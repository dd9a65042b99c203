"""Downloading a file so that either all of it is there, checked, or nothing is."""

import hashlib
import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tlcli.reporter import Reporter

_CHUNK = 1 << 20  # bytes
_PATIENCE = 30.0  # seconds without a byte


class DownloadFailed(Exception):
    """Why nothing was downloaded, in words."""


def download(url: str, target: Path, digits: str, reporter: Reporter) -> None:
    """Fetches `url` to `target`, beside it first, and renames when its sha256 begins as `digits`.

    Raises:
        Failed: no connection, not found, interrupted, another file, or nowhere to write.
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
        if not sha256.startswith(digits):
            raise DownloadFailed(f"what came is another file: its sha256 begins with {sha256[:8]}")
        part.chmod(0o644)  # mkstemp lets nobody else read it; the folder may be shared
        part.replace(target)
    except HTTPError as error:
        raise DownloadFailed(f"the server answers {error.code} {error.reason}") from None
    except URLError as error:
        raise DownloadFailed(str(error.reason)) from None
    except (OSError, HTTPException) as error:
        raise DownloadFailed(str(error) or type(error).__name__) from None
    finally:  # after Ctrl-C too
        part.unlink(missing_ok=True)


def _transfer(url: str, file: BinaryIO, name: str, reporter: Reporter) -> str:
    """Copies `url`'s content into `file`; the sha256 of what came, in hex."""
    sha256 = hashlib.sha256()
    done = 0
    request = Request(url, headers={"User-Agent": "tlcli"})
    with urlopen(request, timeout=_PATIENCE) as response:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            sha256.update(chunk)
            done += len(chunk)
            # without a length it is told as nearly done all the while
            reporter.progress(f"downloading {name}", done, max(total, done + (not total)), "bytes")
    if done < total:
        raise DownloadFailed(f"the connection broke off after {done} of {total} bytes")
    if not total:
        reporter.progress(f"downloading {name}", done, done, "bytes")
    return sha256.hexdigest()
