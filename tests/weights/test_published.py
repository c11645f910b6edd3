"""Downloads from a server on this machine: whole, cut off and resumed, wrong, absent."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time

import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights import load_weights, published

CONTENT = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` at every path, with byte ranges; cuts the first answers after `cuts` bytes."""

    content, cuts, ranges, requests = CONTENT, [], True, []

    def do_GET(self):
        start, asked = 0, self.headers.get("Range")
        self.requests.append(asked)
        if self.path.endswith("absent.pth"):
            self.send_error(404)
            return
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        stop = self.cuts.pop(0) if self.cuts else None
        self.wfile.write(self.content[start:][:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A handler class of its own; the cache is `tmp_path`, and the registry knows `net-<digits>.pth` of `CONTENT`."""
    handler = type("OneTest", (Handler,), {"cuts": [], "requests": []})
    instance = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=instance.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(published, "BASE_URL", f"http://127.0.0.1:{instance.server_port}/")
    add(monkeypatch, CONTENT)
    yield handler
    instance.shutdown()
    thread.join()
    instance.server_close()


def add(monkeypatch, content, label="torchvision/test"):
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    file = published.PublishedFile(name=name, architecture="net", label=label, megabytes=0.01, holds="a test")
    monkeypatch.setitem(published.PUBLISHED, name, file)
    return name


NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


def test_downloads_once_with_a_progress_bar(server, tmp_path, capsys):
    path = published.download(NAME)
    assert path == tmp_path / "keras_cv_lectures" / NAME
    assert path.read_bytes() == CONTENT
    assert f"{len(CONTENT)}/{len(CONTENT)}" in capsys.readouterr().out
    assert published.download(NAME) == path
    assert server.requests == [None]
    assert [p.name for p in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_where_it_was_cut_off(server, tmp_path, ranges):
    server.cuts, server.ranges = [1000, 500], ranges
    part = tmp_path / "keras_cv_lectures" / f"{NAME}.part"
    with pytest.raises(ModelError, match=r"1000 of 10240 bytes.*The 1000 bytes that came are kept.*put the file at"):
        published.download(NAME)
    assert part.read_bytes() == CONTENT[:1000]
    with pytest.raises(ModelError, match="ended after"):
        published.download(NAME)
    assert part.read_bytes() == CONTENT[: 1500 if ranges else 500]
    assert published.download(NAME).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-", f"bytes={1500 if ranges else 500}-"]
    assert not part.exists()


def test_several_downloads_at_a_time_share_one(server, tmp_path, monkeypatch):
    answer, all_wait = server.do_GET, threading.Barrier(4, timeout=10)
    monkeypatch.setattr(server, "do_GET", lambda self: (time.sleep(0.1), answer(self)))
    found = []

    def ask():
        all_wait.wait()
        found.append(published.download(NAME).read_bytes())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert server.requests == [None]
    assert [p.name for p in (tmp_path / "keras_cv_lectures").iterdir()] == [NAME]


def test_who_waited_for_a_download_that_broke_off_goes_on_with_it(server, tmp_path):
    """As another process does: it holds the lock, gets 1000 bytes, and is killed."""
    fcntl = pytest.importorskip("fcntl")
    part = tmp_path / "keras_cv_lectures" / f"{NAME}.part"
    part.parent.mkdir()
    found = []
    thread = threading.Thread(target=lambda: found.append(published.download(NAME)))
    with part.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread.start()
        time.sleep(0.1)
        assert server.requests == []
        held.write(CONTENT[:1000])
    thread.join()
    assert found[0].read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_a_part_that_is_whole_already(server, tmp_path):
    part = tmp_path / "keras_cv_lectures" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert published.download(NAME).read_bytes() == CONTENT


def test_other_bytes_are_not_kept(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(ModelError, match="not the published file: its SHA-256"):
        published.download(NAME)
    assert list((tmp_path / "keras_cv_lectures").iterdir()) == []
    # A part of something else is found out at the end, and the next attempt starts anew.
    (tmp_path / "keras_cv_lectures" / f"{NAME}.part").write_bytes(b"something else")
    server.content = CONTENT
    with pytest.raises(ModelError, match="SHA-256"):
        published.download(NAME)
    assert published.download(NAME).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_named(server, tmp_path):
    path = tmp_path / "keras_cv_lectures" / NAME
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match=rf"{NAME} is not the published file.*Delete it"):
        published.download(NAME)
    assert server.requests == []


def test_without_network(server, monkeypatch, tmp_path):
    monkeypatch.setattr(published, "BASE_URL", "http://127.0.0.1:1/")  # Nobody listens on port 1.
    with pytest.raises(ModelError, match=rf"from http://127\.0\.0\.1:1/{NAME}: .*put the file at {tmp_path}"):
        published.download(NAME)
    (tmp_path / "keras_cv_lectures" / NAME).write_bytes(CONTENT)
    assert published.download(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("refused", ["mkdir", "open"])
def test_a_cache_that_cannot_be_written(server, monkeypatch, tmp_path, refused):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(published.Path, refused, refuse)
    place = tmp_path / "keras_cv_lectures"
    told = rf"{NAME} .*{published.BASE_URL}.* could not be kept in {place}: .*Permission denied.* KERAS_HOME"
    with pytest.raises(ModelError, match=rf"{told}.*fetch that address elsewhere and put the file at {place}/{NAME}"):
        published.download(NAME)
    assert server.requests == []


def test_an_address_that_is_gone(server, monkeypatch):
    monkeypatch.setattr(published, "BASE_URL", f"{published.BASE_URL}absent.pth?")
    server.do_GET = lambda self: self.send_error(404)
    with pytest.raises(ModelError, match="HTTP Error 404"):
        published.download(NAME)


def test_weights_by_name(server, monkeypatch, tmp_path):
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1, name="0")(image))
    encoded = b'{"0.weight":{"dtype":"F32","shape":[2,3,1,1],"data_offsets":[0,24]},"0.bias":{"dtype":"F32",'
    encoded += b'"shape":[2],"data_offsets":[24,32]}}'
    content = len(encoded).to_bytes(8, "little") + encoded + np.arange(8, dtype="<f4").tobytes()
    server.content = content
    name = f"small-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    file = published.PublishedFile(
        name=name, architecture="small", label="torchvision/test", megabytes=0, holds="a test"
    )
    monkeypatch.setitem(published.PUBLISHED, name, file)
    load_weights(model, "torchvision/test", architecture="small")
    np.testing.assert_array_equal(model.get_layer("0").bias, [6, 7])
    with pytest.raises(ModelError, match=r"'torchvision/other'. Known for small: \['torchvision/test'\]"):
        load_weights(model, "torchvision/other", architecture="small")
    with pytest.raises(ModelError, match="no published file"):
        load_weights(model, "torchvision/test")


def test_names_of_the_published_files():
    assert len(published.PUBLISHED) == 20
    for name, file in published.PUBLISHED.items():
        assert file.url == f"https://download.pytorch.org/models/{name}"
        assert len(bytes.fromhex(file.sha256_prefix)) == 4
        assert published.find_published(file.label, file.architecture) is file
    file = published.find_published("torchvision/coco-voc", "deeplabv3_mobilenet_v3_large")
    assert (file.name, file.sha256_prefix) == ("deeplabv3_mobilenet_v3_large-fc3c493d.pth", "fc3c493d")
    with pytest.raises(ModelError, match="`file` must be one of"):
        published.download("resnet18.pth")
