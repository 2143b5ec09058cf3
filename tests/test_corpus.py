"""Reading a corpus: real GTZAN, the data of an installed package, hostile folders and headers."""
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from genre_study.core.audio import read_header
from genre_study.corpus import gtzan_tracks, read_corpus

SHARED = Path(__file__).resolve().parents[2] / "shared" / "gtzan"
MINI = SHARED / "mini"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="the 100 whole GTZAN tracks are not on this machine")
FORMATS = ("wav", "au", "flac", "ogg", "mp3")


@pytest.fixture
def corpus(tmp_path):
    """Two genres with a second of noise in each format."""
    noise = np.random.default_rng(0).normal(0, 0.1, 22050)
    for genre in ("blues", "jazz"):
        (tmp_path / genre).mkdir()
        for suffix in FORMATS:
            sf.write(tmp_path / genre / f"{genre}_{suffix}.{suffix}", noise, 22050)
    return tmp_path


@needs_mini
def test_real_tracks():
    tracks = read_corpus(MINI)
    assert len(tracks) == 100 and tracks.genre.value_counts().eq(10).all()
    assert tracks.duration_s.between(29.9, 30.6).all() and (tracks.problem == "").all()
    facts = gtzan_tracks().set_index("track_id")
    pd.testing.assert_series_equal(tracks.set_index("track_id").artist, facts.artist[tracks.track_id])
    assert read_corpus(MINI / "genres").drop(columns="path").equals(tracks.drop(columns="path"))


@pytest.mark.skipif(not (SHARED / "tracks.csv").is_file(), reason="the source of the table is not on this machine")
def test_facts_are_those_of_the_source():
    source = pd.read_csv(SHARED / "tracks.csv").drop(columns=["in_mini", "in_mel"])
    pd.testing.assert_frame_equal(gtzan_tracks().drop(columns=["fault", "matched_artist"]), source, check_dtype=False)


def test_facts_are_read_from_a_zipped_package(tmp_path):
    """importlib.resources, not a path: a package inside a zip reads them too."""
    import shutil

    package = Path(__file__).parents[1] / "genre_study"
    shutil.copytree(package, tmp_path / "staged" / "genre_study",
                    ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", tmp_path / "staged")
    code = "from genre_study import corpus; assert '.zip' in corpus.__file__; print(len(corpus.gtzan_tracks()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": archive})
    assert done.stdout.strip() == "1000", done.stderr


def test_import_is_light():
    heavy = {"keras", "librosa", "matplotlib", "scipy", "sklearn"}
    code = f"import sys, genre_study.corpus; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_order_does_not_come_from_the_file_system(corpus, monkeypatch):
    plain = read_corpus(corpus)
    listdir = os.listdir
    for seed in range(3):
        draw = random.Random(seed).random
        monkeypatch.setattr(os, "listdir", lambda path, draw=draw: sorted(listdir(path), key=lambda _: draw()))
        assert read_corpus(corpus).equals(plain)


def test_hostile_names_keep_their_rows(corpus):
    noise = (corpus / "blues" / "blues_wav.wav").read_bytes()
    names = ["a\nb.wav", "\U0001f3b8.wav", "x" * 246 + ".wav", "<script>alert(1).wav", "a,b;\"'c.WAV", " .wav",
             "-rf.wav", "%s{0}.wav", "..wav.wav"]
    for name in names:
        (corpus / "blues" / name).write_bytes(noise)
    tracks = read_corpus(corpus)
    visible = [name for name in names if not name.startswith(".")]
    assert len(tracks) == 10 + len(visible)
    assert tracks.track_id.is_unique and (tracks.problem == "").all()
    assert {Path(path).name for path in tracks.path} >= set(visible)
    assert pd.read_json(io.StringIO(tracks.to_json())).shape == tracks.shape


def test_a_name_that_is_not_text_is_a_problem_row(corpus, tmp_path):
    try:
        open(os.fsencode(corpus / "blues") + b"/\xff\xfe.wav", "wb").close()
    except OSError:
        pytest.skip("this file system takes no such names")
    tracks = read_corpus(corpus)
    odd = tracks[tracks.problem != ""]
    assert len(odd) == 1 and "UTF-8" in odd.problem.iloc[0] and odd.duration_s.isna().all()
    tracks.to_parquet(tmp_path / "tracks.parquet")  # every column can be written


def test_what_is_not_a_file_is_never_opened(corpus):
    """A pipe would wait for a writer forever, so the call runs in a process that is killed after a minute."""
    blues = corpus / "blues"
    os.mkfifo(blues / "pipe.wav")
    (blues / "folder.wav").mkdir()
    (blues / "circle.wav").symlink_to("circle.wav")
    (blues / "gone.wav").symlink_to("nowhere")
    (blues / "pipe_link.flac").symlink_to("pipe.wav")
    (blues / "up").symlink_to(corpus)
    (corpus / "round").symlink_to(corpus)
    os.mkfifo(corpus / "tracks.csv")
    os.mkfifo(corpus / "genre_pipe")
    code = ("import sys; from genre_study.corpus import read_corpus; tracks = read_corpus(sys.argv[1]); "
            "print((tracks.problem != '').sum(), len(tracks))")
    done = subprocess.run([sys.executable, "-c", code, str(corpus)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["5", "15"], done.stderr


def test_links_to_files_and_folders_count(corpus, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "jazz").symlink_to(corpus / "jazz")
    (other / "blues").mkdir()
    (other / "blues" / "one.wav").symlink_to(corpus / "blues" / "blues_wav.wav")
    assert len(read_corpus(other)) == 6


def test_what_this_machine_cannot_read_is_a_problem_row(corpus):
    (corpus / "jazz" / "song.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    sf.write(corpus / "jazz" / "song.opus", np.zeros(48000), 48000, format="OGG", subtype="OPUS")
    tracks = read_corpus(corpus).set_index("track_id")
    assert len(tracks) == 12 and tracks.index[tracks.problem != ""].to_list() == ["jazz.song.m4a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_a_problem_row(corpus):
    (corpus / "jazz" / "jazz_wav.wav").chmod(0)
    assert (read_corpus(corpus).problem != "").sum() == 1


@pytest.mark.parametrize("suffix, n, with_ffmpeg", [*((suffix, 120, False) for suffix in FORMATS), ("ogg", 8, True)])
def test_mutated_headers_end_as_a_length_or_a_problem(corpus, suffix, n, with_ffmpeg):
    """Every byte of the header flipped, and the file cut after every byte: no crash, no hang, no file left open."""
    source = corpus / "blues" / f"blues_{suffix}.{suffix}"
    sound = source.read_bytes()
    code = """
import os, sys
from pathlib import Path
from genre_study.core.audio import read_header
sound, path, random = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), __import__("random").Random(0)
n = int(sys.argv[3])
made = [sound[:end] for end in range(n)]
made += [sound[:at] + bytes([sound[at] ^ flip]) + sound[at + 1:] for at in range(n) for flip in (1, 0x80, 0xFF)]
made += [sound[:at] + random.randbytes(8) + sound[at + 8:] for at in range(n)]
lengths, problems = 0, 0
for content in made:
    path.write_bytes(content)
    try:
        seconds = read_header(path).duration_s
        assert 0 < seconds <= 4 * 3600, seconds
        lengths += 1
    except ValueError:
        problems += 1
assert len(os.listdir("/proc/self/fd")) < 12 if os.path.isdir("/proc/self/fd") else True
print(lengths, problems)
"""
    done = subprocess.run([sys.executable, "-c", code, str(source), str(corpus / "made"), str(n)], capture_output=True,
                          text=True, timeout=120, env=os.environ if with_ffmpeg else {**os.environ, "PATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    lengths, problems = map(int, done.stdout.split())
    assert lengths + problems == 5 * n and problems > n // 2
    assert len(sound) > 1000


def test_a_stem_in_two_genres_and_in_two_formats(corpus):
    for genre, suffix in (("blues", "wav"), ("jazz", "wav"), ("jazz", "flac")):
        sf.write(corpus / genre / f"song.{suffix}", np.zeros(2205), 22050)
    ids = read_corpus(corpus).track_id
    assert ids.is_unique and {"blues.song", "jazz.song.wav", "jazz.song.flac"} <= set(ids)


def test_gtzan_names_in_the_wrong_genre_get_no_artists(tmp_path):
    for genre, name in (("blues", "blues.00000"), ("jazz", "rock.00001")):
        (tmp_path / genre).mkdir()
        sf.write(tmp_path / genre / f"{name}.wav", np.zeros(2205), 22050)
    assert read_corpus(tmp_path).artist.isna().all()
    with pytest.raises(ValueError, match="not every track has a GTZAN name"):
        read_corpus(tmp_path, artists="gtzan")


def test_a_relative_folder_gives_relative_paths(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    tracks = read_corpus(".")
    assert not any(map(os.path.isabs, tracks.path))
    assert read_header(tracks.path[0]).duration_s == pytest.approx(1, abs=0.1)


def test_files_in_folders_below_are_counted(corpus):
    for place in ("blues/live", "jazz/live/disc 1", "jazz/.hidden"):
        (corpus / place).mkdir(parents=True)
        sf.write(corpus / place / "below.wav", np.zeros(100), 22050)
        (corpus / place / "cover.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 audio files are left out, since they lie in folders "
                                         ".*'blues/live/below.wav'"):
        assert len(read_corpus(corpus)) == 10
    for genre in ("blues", "jazz"):
        for path in (corpus / genre).glob("*.*"):
            path.unlink() if path.is_file() else None
    with pytest.raises(ValueError, match=r"no audio files in genre .*2 audio files such as 'blues/live/below.wav' lie "
                                         r"one"):
        read_corpus(corpus)


def test_a_link_in_a_circle_does_not_hang(corpus):
    (corpus / "jazz" / "loop").symlink_to(corpus)
    assert len(read_corpus(corpus)) == 10


def test_a_stranger_among_gtzan_is_named(tmp_path):
    for name in ("blues/blues.00000", "blues/blues.00001", "rock/rock.00000", "rock/mine"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sf.write(tmp_path / f"{name}.wav", np.zeros(100), 22050)
    with pytest.warns(UserWarning, match="1 of 4 tracks have no GTZAN name, 'mine' among them"):
        assert read_corpus(tmp_path).artist.isna().all()
    for wanted in (None, {"mine": "Me"}):  # asked for something else: nothing to say
        read_corpus(tmp_path, artists=wanted)
    (tmp_path / "rock" / "mine.wav").unlink()
    assert read_corpus(tmp_path).artist.notna().all()


@pytest.mark.parametrize("content, encoding", [("track_id,artist\nblues_wav,Béla\n", "latin-1"),
                                               ("track_id;artist\nblues_wav;Béla\n", "utf-8"),
                                               ("track_id,artist\nblues_wav,Béla\n", "utf-16")])
def test_a_table_in_another_form_says_how_to_save_it(corpus, content, encoding):
    (corpus / "tracks.csv").write_text(content, encoding=encoding)
    with pytest.raises(ValueError, match=r"tracks\.csv.* Save it as UTF-8 with commas"):
        read_corpus(corpus)


def test_a_table_may_name_files(corpus):
    (corpus / "tracks.csv").write_text("track_id,artist\nblues_wav.wav,Anna\njazz_mp3,Bert\nnobody,Cleo\n",
                                       encoding="utf-8")
    with pytest.warns(UserWarning, match="1 names in the table of artists fit no track, 'nobody' among them, and 8 "
                                         "tracks"):
        artist = read_corpus(corpus).set_index("track_id").artist
    assert artist.dropna().to_dict() == {"blues_wav": "Anna", "jazz_mp3": "Bert"}
    (corpus / "tracks.csv").write_text("track_id,artist\nblues_wav.wav,Anna\nblues_wav,Bert\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"more than once: \['blues_wav'"):
        read_corpus(corpus)
