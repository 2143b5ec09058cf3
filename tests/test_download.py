"""fetch_gtzan against a server on this machine that breaks off, stalls, lies and answers nonsense."""
import hashlib
import http.server
import io
import os
import socket
import struct
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
import soundfile as sf

from genre_study.corpora import gtzan as download
from genre_study.corpora.gtzan import DownloadError, fetch_gtzan


def sound(seed=0, seconds=0.5):
    made = io.BytesIO()
    sf.write(made, np.random.default_rng(seed).normal(0, 0.1, round(seconds * 22050)), 22050, format="WAV")
    return made.getvalue()


def tar_of(members, mode="w:gz"):
    """A tar archive of (name, content), or of TarInfo as they are."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as tar:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo):
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if content is not None else None)
    return made.getvalue()


GOOD = [(f"gtzan/genres/{genre}/{genre}.0000{n}.wav", sound(n)) for genre in ("blues", "jazz") for n in range(2)]
ARCHIVE = tar_of(GOOD)


def checksum(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Server:
    """Serves `content` and does something wrong with the first `n_wrong` answers."""

    def __init__(self, content, wrong="", n_wrong=1, ranges=True):
        self.content, self.wrong, self.n_wrong, self.ranges, self.asked = content, wrong, n_wrong, ranges, []
        self.tag = '"a"'
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/genres.tar.gz"
        self.stop = threading.Event()

    def answer(self, http):
        asked_range = http.headers.get("Range")
        self.asked.append(asked_range)
        wrong = self.wrong if len(self.asked) <= self.n_wrong else ""
        if wrong == "busy":
            return http.send_error(503)
        if wrong == "gone":
            return http.send_error(404)
        same = http.headers.get("If-Range") in (None, self.tag)
        if asked_range and same and int(asked_range[6:-1]) >= len(self.content) and wrong == "":
            http.send_response(416)
            http.send_header("Content-Range", f"bytes */{len(self.content)}")
            http.send_header("Content-Length", "0")
            return http.end_headers()
        start = int(asked_range[6:-1]) if asked_range and self.ranges and same else 0
        rest = self.content[start:]
        length = {"says less": len(rest) // 2, "says more": len(rest) + 1000}.get(wrong, len(rest))
        http.send_response(206 if start else 200)
        http.send_header("Content-Length", str(length))
        if start:
            http.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        http.send_header("ETag", self.tag)
        http.end_headers()
        if wrong == "mute":
            self.stop.wait(30)
            return None
        half = rest[:max(1, len(rest) // 2)]
        if wrong == "stalls":
            http.wfile.write(half)
            http.wfile.flush()
            self.stop.wait(30)
        elif wrong == "cuts":
            http.wfile.write(half)
        elif wrong == "resets":
            http.wfile.write(half)
            http.wfile.flush()
            time.sleep(0.1)  # the bytes get out before the reset
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.connection.close()
        else:
            http.wfile.write(rest)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def left_in(folder):
    return sorted(name for name in os.listdir(folder)) if folder.exists() else []


@pytest.mark.parametrize("wrong", ["", "stalls", "cuts", "resets", "busy", "says more"])
def test_it_comes_through(tmp_path, wrong):
    with Server(ARCHIVE, wrong, n_wrong=2) as server:
        tracks = fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE), timeout_s=1)
        assert tracks.track_id.to_list() == ["blues.00000", "blues.00001", "jazz.00000", "jazz.00001"]
        assert (tracks.problem == "").all() and tracks.artist[0] == "John Lee Hooker"
        assert left_in(tmp_path) == ["genres"]
        n_asked = len(server.asked)
        assert n_asked == (3 if wrong else 1)
        if wrong in ("stalls", "cuts", "resets"):  # continued, not begun anew
            assert server.asked[1] == f"bytes={len(ARCHIVE) // 2}-"
        fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE))
        assert len(server.asked) == n_asked


def test_a_server_without_ranges(tmp_path):
    with Server(ARCHIVE, "cuts", ranges=False) as server:
        assert len(fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE))) == 4


def test_another_file_under_the_same_address(tmp_path):
    """What was begun with the old file isn't glued to the new one."""
    newer = tar_of([(name, sound(number + 9)) for number, (name, _) in enumerate(GOOD)])
    with Server(ARCHIVE, "cuts", n_wrong=99, ranges=False) as server, pytest.raises(DownloadError, match="call again"):
        fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE), attempts=1)
    assert (tmp_path / ".archive.part").stat().st_size == len(ARCHIVE) // 2
    with Server(newer) as server:
        server.tag = '"b"'
        assert len(fetch_gtzan(tmp_path, server.url, checksum(newer))) == 4
        assert server.asked[0] == f"bytes={len(ARCHIVE) // 2}-"


def test_the_next_call_continues(tmp_path):
    with Server(ARCHIVE, "cuts", n_wrong=1) as server:
        with pytest.raises(DownloadError, match="call again"):
            fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE), attempts=0)
        with pytest.raises(Exception, match="IncompleteRead"):
            download._continue(tmp_path / ".archive.part", server.url, timeout_s=1)
        tracks = fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE))
        assert len(tracks) == 4 and server.asked == [None, f"bytes={len(ARCHIVE) // 2}-"]


@pytest.mark.parametrize("wrong, error, match", [
    ("mute", DownloadError, "given up after 2 attempts"), ("gone", DownloadError, "404.*Check the address"),
    ("busy", DownloadError, "503"), ("says less", ValueError, "checksum of what came differs"),
])
def test_it_gives_up_clearly(tmp_path, wrong, error, match):
    with Server(ARCHIVE, wrong, n_wrong=999) as server:
        started = time.monotonic()
        with pytest.raises(error, match=match):
            fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE), attempts=2, timeout_s=0.5)
        assert time.monotonic() - started < 20
    assert "genres" not in left_in(tmp_path) and set(left_in(tmp_path)) <= {".archive.part", ".archive.tag"}


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    with Server(ARCHIVE) as server, pytest.raises(ValueError, match="checksum of what came differs"):
        fetch_gtzan(tmp_path, server.url, checksum(b"another"))
    assert left_in(tmp_path) == []


def test_more_bytes_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BYTES", 1000)
    with Server(ARCHIVE) as server, pytest.raises(DownloadError, match="more than 1,000 bytes"):
        fetch_gtzan(tmp_path, server.url, checksum(ARCHIVE))


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, None


@pytest.mark.parametrize("members, match", [
    ([*GOOD, ("../../evil.wav", b"x")], "outside|can't be unpacked"),
    ([("readme.txt", b"x")], "no audio files"),
    ([("a/b/c/blues/x.wav", b"x"), ("a/b/d/blues/x.wav", b"x")], "expected one with a folder a genre"),
])
def test_archives_that_are_refused(tmp_path, members, match):
    content = tar_of(members)
    folder = tmp_path / "deep" / "gtzan"
    with Server(content) as server, pytest.raises(ValueError, match=match):
        fetch_gtzan(folder, server.url, checksum(content))
    assert left_in(folder) == [] and left_in(tmp_path) == ["deep"] and left_in(tmp_path / "deep") == ["gtzan"]


def test_what_is_no_audio_is_not_unpacked(tmp_path):
    content = tar_of([*GOOD, ("gtzan/genres/jazz/run.sh", b"x"), ("gtzan/genres/jazz/._jazz.wav", b"x"),
                      special("gtzan/genres/jazz/link.wav", tarfile.SYMTYPE, "/etc/passwd"),
                      special("gtzan/genres/jazz/hard.wav", tarfile.LNKTYPE, "gtzan/genres/blues/blues.00000.wav"),
                      special("gtzan/genres/jazz/pipe.wav", tarfile.FIFOTYPE),
                      special("gtzan/genres/jazz/disk.wav", tarfile.BLKTYPE)])
    with Server(content) as server:
        assert len(fetch_gtzan(tmp_path, server.url, checksum(content))) == 4
    assert left_in(tmp_path / "genres" / "jazz") == ["jazz.00000.wav", "jazz.00001.wav"]


@pytest.mark.parametrize("content", [b"no archive", ARCHIVE[:-200], b"", b"\x1f\x8b" + 100 * b"\0"])
def test_archives_that_are_broken(tmp_path, content):
    with Server(content) as server, pytest.raises((ValueError, DownloadError)):
        fetch_gtzan(tmp_path, server.url, checksum(content), attempts=1)
    assert "genres" not in left_in(tmp_path)


def test_a_zip_is_no_tar(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("genres/blues/x.wav", b"x")
    with Server(packed.getvalue()) as server, pytest.raises(ValueError, match="expected a tar"):
        fetch_gtzan(tmp_path, server.url, checksum(packed.getvalue()))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("known_hash, match", [
    ("sha999:" + 64 * "0", "no checksum of the kind 'sha999'"),
    ("sha256:" + 63 * "0", "64 digits 0 to 9 and a to f; received 63"),
    ("md5:" + 64 * "0", "expected md5: and 32 digits"), ("0x" + 62 * "0", "64 digits"), ("", "64 digits"),
    ("sha256 " + 64 * "0", "64 digits")])
def test_a_mistyped_checksum_is_found_before_the_download(tmp_path, known_hash, match):
    with Server(ARCHIVE) as server, pytest.raises(ValueError, match=match):
        fetch_gtzan(tmp_path / "new", server.url, known_hash)
    assert not server.asked and not (tmp_path / "new").exists()


def test_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BYTES", 1 << 20)
    content = tar_of([("blues/x.wav", bytes(3 << 20))])
    assert len(content) < 10_000
    with Server(content) as server, pytest.raises(ValueError, match="more than"):
        fetch_gtzan(tmp_path, server.url, checksum(content))
    assert left_in(tmp_path) == []


def test_unreadable_tracks(tmp_path):
    """jazz.00054 is known; any other gives a warning."""
    content = tar_of([*GOOD, ("gtzan/genres/jazz/jazz.00054.wav", b"x")])
    with Server(content) as server:
        tracks = fetch_gtzan(tmp_path / "known", server.url, checksum(content))
    assert tracks.track_id[tracks.problem != ""].to_list() == ["jazz.00054"]
    content = tar_of([*GOOD, ("gtzan/genres/jazz/jazz.00055.wav", b"x")])
    with Server(content) as server, pytest.warns(UserWarning, match="1 files can't be read, 'jazz.00055'"):
        fetch_gtzan(tmp_path / "unknown", server.url, checksum(content))


@pytest.mark.parametrize("url", ["", "genres.tar.gz", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://", None])
def test_addresses_that_are_none(tmp_path, url):
    with pytest.raises(ValueError, match="expected an address"):
        fetch_gtzan(tmp_path / "new", url, None)
    assert not (tmp_path / "new").exists()


def test_no_checksum_warns(tmp_path):
    with Server(ARCHIVE) as server, pytest.warns(UserWarning, match="nobody checks"):
        fetch_gtzan(tmp_path, server.url, None)
