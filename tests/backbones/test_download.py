"""Downloads from a local server: success, and everything that can go wrong."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from tests.fakes import RecordingReporter
from tlcli.backbones import download as fetch
from tlcli.backbones import weights
from tlcli.backbones.build import build, load_backbone
from tlcli.backbones.family import PublishedWeights
from tlcli.errors import UserError

SMALL = "squeezenet1_1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serve `server.content` and announce `server.promised` bytes (None: no length)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            self.send_response(server.status)
            if server.promised is not None:
                self.send_header("Content-Length", str(server.promised))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.status = [], 200
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("TLCLI_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/mirror/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def file(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve SMALL's weights, name them in torchvision's table, and return the file's name."""
    torch.save(build(SMALL).model.state_dict(), tmp_path / "served.pth")
    server.content = (tmp_path / "served.pth").read_bytes()
    server.promised = len(server.content)
    name = f"squeezenet1_1-{hashlib.sha256(server.content).hexdigest()[:8]}.pth"
    preprocessing = build(SMALL).preprocessing
    url = f"http://127.0.0.1:{server.server_port}/publisher/files/{name}"
    entry = PublishedWeights("IMAGENET1K_V1", name, url, preprocessing)
    monkeypatch.setattr(weights, "published_weights", lambda _: {"DEFAULT": entry})
    return name


def failed(folder: Path) -> str:
    """Return the message of the failing load, after checking that no file is left behind."""
    with pytest.raises(UserError) as error:
        load_backbone(SMALL)
    assert not folder.exists() or not list(folder.iterdir())
    assert str(folder) in error.value.message
    assert "efficientnet_lite0" in error.value.hint
    return error.value.message


def test_download(server, file: str, folder: Path) -> None:
    reporter = RecordingReporter()
    assert load_backbone(SMALL, reporter=reporter).weights == "IMAGENET1K_V1"
    assert server.asked == [f"/mirror/{file}"]
    assert [path.name for path in folder.iterdir()] == [file]
    assert reporter.units == {f"downloading {file}": "bytes"}
    progress = reporter.tasks[f"downloading {file}"]
    assert progress[-1] == (server.promised, server.promised, {})
    assert [done for done, *_ in progress] == sorted({done for done, *_ in progress})
    load_backbone(SMALL)
    assert len(server.asked) == 1  # at hand now


def test_without_a_mirror_the_file_comes_from_its_publisher(
    server, file: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TLCLI_WEIGHTS_URL")
    load_backbone(SMALL)
    assert server.asked == [f"/publisher/files/{file}"]
    assert (folder / file).read_bytes() == server.content


def test_no_content_length(server, file: str, folder: Path) -> None:
    server.promised = None
    reporter = RecordingReporter()
    load_backbone(SMALL, reporter=reporter)
    assert (folder / file).read_bytes() == server.content
    progress = reporter.tasks[f"downloading {file}"]
    assert [done == total for done, total, _ in progress][-2:] == [False, True]


@pytest.mark.usefixtures("file")
def test_hash_mismatch(server, folder: Path) -> None:
    server.content = server.content[::-1]
    assert "it is another file" in failed(folder)


def test_not_found(server, file: str, folder: Path) -> None:
    server.status = 404
    message = failed(folder)
    assert "the server returned 404 Not Found" in message
    assert file in message


@pytest.mark.usefixtures("file")
def test_interrupted(server, folder: Path) -> None:
    server.content = server.content[:2_000_000]
    assert f"after 2000000 of {server.promised} bytes" in failed(folder)


@pytest.mark.usefixtures("file")
def test_ctrl_c(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_transfer", stop)
    with pytest.raises(KeyboardInterrupt):
        load_backbone(SMALL)
    assert list(folder.iterdir()) == []


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("TLCLI_WEIGHTS_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    message = failed(folder)
    assert "squeezenet1_1-b8a52dc0.pth" in message
    assert "Connection refused" in message


@pytest.mark.usefixtures("file")
def test_folder_that_cannot_be_made(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file is in the way")
    with pytest.raises(UserError, match="cannot be written to"):
        load_backbone(SMALL)
