"""fetch_gtzan against a hub on this machine that breaks off, stalls and lies; and archives that can't be trusted."""
import hashlib
import http.server
import io
import os
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
import soundfile as sf

from genre_study.core import archive as core_archive
from genre_study.core.archive import unpack
from genre_study.corpora.gtzan import DownloadError, fetch_gtzan

constants = pytest.importorskip("huggingface_hub.constants")


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


def zip_of(members, compression=zipfile.ZIP_DEFLATED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return made.getvalue()


GOOD = [(f"gtzan/genres/{genre}/{genre}.0000{n}.wav", sound(n)) for genre in ("blues", "jazz") for n in range(2)]
ARCHIVE = tar_of(GOOD)


class Hub:
    """Speaks the hub's protocol for one file, and does something wrong with the first `n_wrong` downloads of it."""

    def __init__(self, content, wrong="", n_wrong=1, promised=None):
        self.content, self.wrong, self.n_wrong, self.asked = content, wrong, n_wrong, []
        self.promised = promised or hashlib.sha256(content).hexdigest()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                outer.head(self, 200, len(outer.content))

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.stop = threading.Event()

    def head(self, http, status, length, **others):
        if self.wrong == "gone" or not http.path.endswith("/datasets/marsyas/gtzan/resolve/main/data/genres.tar.gz"):
            return http.send_error(404)
        http.send_response(status)
        said = {"X-Repo-Commit": 40 * "a", "ETag": f'"{self.promised}"', "Content-Length": length, **others}
        for name, value in said.items():
            http.send_header(name, str(value))
        http.end_headers()
        return None

    def answer(self, http):
        if not http.path.endswith("genres.tar.gz"):
            return http.send_error(404)
        asked_range = http.headers.get("Range")
        self.asked.append(asked_range)
        wrong = self.wrong if len(self.asked) <= self.n_wrong else ""
        if wrong == "busy":
            return http.send_error(503)
        start = int(asked_range[6:-1]) if asked_range else 0
        rest = self.content[start:]
        length = {"says less": len(rest) // 2, "says more": len(rest) + 1000}.get(wrong, len(rest))
        more = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"} if start else {}
        self.head(http, 206 if start else 200, length, **more)
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
        return None

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        os.environ["HF_ENDPOINT"] = self.endpoint
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def own_hub(tmp_path_factory, monkeypatch):
    """A cache of its own, no proxy, and no long waits between attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("assets")))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # whole chunks are kept of a broken download
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.1)))


def left_in(folder):
    return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.mark.parametrize("wrong", ["", "stalls", "cuts", "resets"])
def test_it_comes_through(tmp_path, wrong):
    with Hub(ARCHIVE, wrong, n_wrong=2) as hub:
        tracks = fetch_gtzan(tmp_path)
        assert tracks.track_id.to_list() == ["blues.00000", "blues.00001", "jazz.00000", "jazz.00001"]
        assert (tracks.problem == "").all() and tracks.artist[0] == "John Lee Hooker"
        assert left_in(tmp_path) == ["genres"]
        n_asked = len(hub.asked)
        assert n_asked == (3 if wrong else 1)
        if wrong:  # continued, not begun anew
            assert len(ARCHIVE) // 2 - 1000 < int(hub.asked[1][6:-1]) <= len(ARCHIVE) // 2
        fetch_gtzan(tmp_path)
        fetch_gtzan(tmp_path / "another")  # out of the cache
        assert len(hub.asked) == n_asked


def test_the_next_call_continues(tmp_path):
    with Hub(ARCHIVE, "cuts", n_wrong=999) as hub, pytest.raises(DownloadError, match="What has come is kept"):
        fetch_gtzan(tmp_path / "a")
    n_asked, last = len(hub.asked), hub.asked[-1]
    assert n_asked > 2 and not (tmp_path / "a").exists()
    with Hub(ARCHIVE) as hub:
        assert len(fetch_gtzan(tmp_path / "a")) == 4
        assert len(hub.asked) == 1 and int(hub.asked[0][6:-1]) >= int(last[6:-1])


@pytest.mark.parametrize("wrong, match", [
    ("mute", "timed out|can't be downloaded"), ("gone", "404"), ("busy", "503"), ("says more", "can't be downloaded"),
    ("says less", "can't be downloaded")])
def test_it_gives_up_clearly(tmp_path, wrong, match):
    with Hub(ARCHIVE, wrong, n_wrong=999) as hub:
        started = time.monotonic()
        with pytest.raises(DownloadError, match=match) as caught:
            fetch_gtzan(tmp_path / "new")
        assert time.monotonic() - started < 60
    assert hub.endpoint in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_no_connection_is_one_line(tmp_path):
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1.*call again") as caught:
        fetch_gtzan(tmp_path / "new")
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


def test_another_content_than_promised_is_deleted(tmp_path):
    with Hub(ARCHIVE, promised=64 * "0") as hub:
        for _ in range(2):  # and asked for again, not taken from the cache
            with pytest.raises(DownloadError, match="the hub promised 0000"):
                fetch_gtzan(tmp_path / "new")
        assert len(hub.asked) == 2
    assert not (tmp_path / "new").exists()


def test_without_the_hubs_client(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"genre_study\[hub\].*or give an archive"):
        fetch_gtzan(tmp_path / "new")
    (tmp_path / "own.tar.gz").write_bytes(ARCHIVE)
    assert len(fetch_gtzan(tmp_path / "own", tmp_path / "own.tar.gz")) == 4


def test_the_command(tmp_path):
    def fetch(*arguments):
        code = "import sys; from genre_study.command import main; sys.exit(main())"
        return subprocess.run([sys.executable, "-c", code, "fetch", "gtzan", *arguments], capture_output=True,
                              text=True, env={**os.environ, "HF_ENDPOINT": hub.endpoint,
                                              "HF_HOME": str(tmp_path / "cache")})

    with Hub(ARCHIVE) as hub:
        done = fetch(str(tmp_path / "gtzan"))
        assert done.returncode == 0, done.stderr
        assert "4 tracks" in done.stderr and left_in(tmp_path / "gtzan") == ["genres"]
        assert fetch(str(tmp_path / "gtzan"), "--archive", "none.zip").returncode == 0  # it is not fetched again
        done = fetch(str(tmp_path / "new"), "--archive", "none.zip")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "there is no file 'none.zip'" in done.stderr


def test_unreadable_tracks(tmp_path):
    """jazz.00054 is known; any other gives a warning."""
    (tmp_path / "a.tar").write_bytes(tar_of([*GOOD, ("gtzan/genres/jazz/jazz.00054.wav", b"x")], "w"))
    tracks = fetch_gtzan(tmp_path / "known", tmp_path / "a.tar")
    assert tracks.track_id[tracks.problem != ""].to_list() == ["jazz.00054"]
    (tmp_path / "a.zip").write_bytes(zip_of([*GOOD, ("gtzan/genres/jazz/jazz.00055.wav", b"x")]))
    with pytest.warns(UserWarning, match="1 files can't be read, 'jazz.00055'"):
        fetch_gtzan(tmp_path / "unknown", tmp_path / "a.zip")


# Archives

def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, None


def zip_link(name, target):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member, target


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("members, match", [
    ([*GOOD, ("../../evil.wav", b"x")], "outside"), ([("readme.txt", b"x")], "no audio files"),
    ([("tracks.csv", b"x")], "no audio files"), ([], "no audio files")])
def test_archives_that_are_refused(tmp_path, make, members, match):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "archive").write_bytes(make(members))
    with pytest.raises(ValueError, match=match):
        unpack(tmp_path / "deep" / "archive", tmp_path / "deep" / "new" / "folder")
    assert left_in(tmp_path / "deep" / "new") == [] and left_in(tmp_path) == ["deep"]


def test_folders_that_are_not_one_corpus_are_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of([("a/b/c/blues/x.wav", b"x"), ("a/b/d/blues/x.wav", b"x")]))
    with pytest.raises(ValueError, match=r"no audio files in genre folders|don't look like genres|lies in no genre "
                                         r"folder"):
        fetch_gtzan(tmp_path / "new", tmp_path / "a.tar")
    assert left_in(tmp_path / "new") == []


def test_only_audio_and_tables_are_unpacked(tmp_path):
    names = ["blues.00000.wav", "blues.00001.wav"]
    more = [("gtzan/genres/jazz/run.sh", b"x"), ("gtzan/genres/jazz/._jazz.wav", b"x"), (".git/x.wav", b"x"),
            ("__MACOSX/genres/x.wav", b"x"), ("gtzan/genres/tracks.csv", b"x")]
    (tmp_path / "a.tar").write_bytes(tar_of([
        *GOOD, *more, special("gtzan/genres/jazz/link.wav", tarfile.SYMTYPE, "/etc/passwd"),
        special("gtzan/genres/jazz/hard.wav", tarfile.LNKTYPE, "gtzan/genres/blues/blues.00000.wav"),
        special("gtzan/genres/jazz/pipe.wav", tarfile.FIFOTYPE),
        special("gtzan/genres/jazz/disk.wav", tarfile.BLKTYPE)]))
    (tmp_path / "a.zip").write_bytes(zip_of([*GOOD, *more, zip_link("gtzan/genres/jazz/link.wav", "/etc/passwd")]))
    for name in ("a.tar", "a.zip"):
        folder = unpack(tmp_path / name, tmp_path / f"from {name}")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert files == [*(f"gtzan/genres/blues/{name}" for name in names),
                         *(f"gtzan/genres/jazz/{name.replace('blues', 'jazz')}" for name in names),
                         "gtzan/genres/tracks.csv"]


@pytest.mark.parametrize("whole", [
    ARCHIVE, zip_of(GOOD), tar_of(GOOD, "w:xz"), tar_of(GOOD, "w:bz2"), tar_of(GOOD, "w")])
def test_archives_that_are_cut_or_damaged_leave_nothing(tmp_path, whole):
    rng, refused = np.random.default_rng(0), 0
    for number in range(40):
        content = bytearray(whole)
        if number % 2:
            del content[int(rng.integers(len(whole) * 0.9)):]
        else:
            place = int(rng.integers(len(whole) - 64))
            content[place:place + 64] = rng.bytes(64)
        (tmp_path / "archive").write_bytes(content)
        try:
            unpack(tmp_path / "archive", tmp_path / f"new{number}")
        except ValueError as error:
            assert str(tmp_path / "archive") in str(error)
            assert all(name == "archive" or name.startswith("new") for name in left_in(tmp_path))
            assert not (tmp_path / f"new{number}").exists()
            refused += 1
    assert refused >= 18  # a plain tar has no checksum over its files, so damage inside them can't be told


def test_a_zip_with_a_password_is_named(tmp_path):
    content = bytearray(zip_of([("a/x.wav", b"x")], zipfile.ZIP_STORED))
    for signature in (b"PK\x03\x04", b"PK\x01\x02"):
        at = content.index(signature) + (6 if signature.endswith(b"\x04") else 8)
        content[at] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match="password"):
        unpack(tmp_path / "a.zip", tmp_path / "new")


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_a_bomb(tmp_path, monkeypatch, make):
    (tmp_path / "a").write_bytes(make([("blues/x.wav", bytes(3 << 20))]))
    assert (tmp_path / "a").stat().st_size < 10_000
    monkeypatch.setattr(core_archive, "MAX_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="more than"):
        unpack(tmp_path / "a", tmp_path / "new")
    monkeypatch.setattr(core_archive, "MAX_FILES", 1)
    (tmp_path / "a").write_bytes(make(GOOD))
    with pytest.raises(ValueError, match="more than 1 files"):
        unpack(tmp_path / "a", tmp_path / "new")
    assert left_in(tmp_path) == ["a"]


def test_a_full_disk_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    (tmp_path / "a.zip").write_bytes(zip_of(GOOD))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("a.tar", "a.zip"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            with pytest.raises(OSError) as caught:
                unpack(tmp_path / name, tmp_path / "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.errno and left_in(tmp_path) == ["a.tar", "a.zip"]


def test_both_sides_of_an_archive_with_train_and_test_are_kept(tmp_path):
    members = [(f"x/{side}/{genre}/{n}.wav", sound(n)) for side in ("train", "test") for genre in ("blues", "jazz")
               for n in range(2)]
    (tmp_path / "x.zip").write_bytes(zip_of(members))
    tracks = fetch_gtzan(tmp_path / "out", tmp_path / "x.zip")
    assert tracks.genre.value_counts().to_dict() == {"blues": 4, "jazz": 4}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name != "genres"]
    with pytest.warns(UserWarning, match="is there already and is read; the archive is not unpacked"):
        assert len(fetch_gtzan(tmp_path / "out", tmp_path / "gone.zip")) == 8


def test_the_command_names_what_can_not_be_read(tmp_path, capsys):
    from genre_study.command import main

    (tmp_path / "x.tgz").write_bytes(tar_of([*GOOD, ("gtzan/genres/jazz/jazz.00054.wav", b"broken")]))
    assert main(["fetch", "gtzan", str(tmp_path / "out"), "--archive", str(tmp_path / "x.tgz")]) == 0
    said = capsys.readouterr().err
    assert "5 tracks in" in said and "jazz.00054 can't be read: " in said
