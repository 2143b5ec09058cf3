"""Corpora as people have them: the same tracks in every layout, and what only looks like genres is refused."""
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genre_study.core.layouts import find_tracks
from genre_study.corpora.audit import audit_corpus
from genre_study.corpus import read_corpus

TRACKS = [("blues", 0), ("blues", 1), ("hiphop", 3), ("hiphop", 7), ("jazz", 5), ("jazz", 54)]
ARTISTS = ["John Lee Hooker", "John Lee Hooker", "Ice Cube", "Wu-Tang Clan", "James Carter", None]


def noise(seed, seconds=0.2, kind="WAV"):
    made = io.BytesIO()
    sf.write(made, np.random.default_rng(seed).normal(0, 0.1, round(seconds * 22050)), 22050, format=kind)
    return made.getvalue()


def write(path, content=None, **tags):
    """Write a file, by default a fifth of a second of noise with tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content)
        return
    with sf.SoundFile(path, "w", 22050, 1) as sound:
        for name, value in tags.items():
            setattr(sound, name, value)
        sound.write(np.random.default_rng(len(str(path))).normal(0, 0.1, 4410))


def gtzan(folder, name="{genre}/{genre}.{number:05}.wav"):
    """Six tracks of GTZAN's names below a folder."""
    for seed, (genre, number) in enumerate(TRACKS):
        capital = {"hiphop": "Hip-Hop"}.get(genre, genre.title())
        write(folder / name.format(genre=genre, number=number, Genre=capital), noise(seed))
    return folder


def kaggle(folder):
    gtzan(folder / "Data" / "genres_original")
    for genre, number in TRACKS:
        write(folder / "Data" / "images_original" / genre / f"{genre}{number:05}.png", b"png")
    write(folder / "Data" / "features_3_sec.csv", b"filename,length\nblues.00000.0.wav,66149\n")
    return folder


def zipped(folder, make):
    make(folder / "inside")
    with zipfile.ZipFile(folder / "archive.zip", "w") as packed:
        for path in sorted((folder / "inside").rglob("*")):
            packed.write(path, path.relative_to(folder / "inside"))
    shutil.rmtree(folder / "inside")
    return folder / "archive.zip"


def tarred(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    inside = gtzan(file.parent / "genres")
    with tarfile.open(file, "w:gz") as packed:
        packed.add(inside, "genres")
    shutil.rmtree(inside)
    return file


def torchaudio(folder):
    tarred(folder / "genres.tar.gz")
    gtzan(folder / "genres")
    return folder


def mirdata(folder):
    gtzan(folder / "gtzan_genre" / "genres")
    write(folder / "gtzan_tempo_beat-main" / "beats" / "gtzan_blues_00000.beats", b"0.5 1\n")
    return folder


def packed_table():
    features = {"genre": {"names": ["blues", "classical", "country", "disco", "hiphop", "jazz"], "_type": "ClassLabel"}}
    schema = pa.schema([("file", pa.string()), ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                        ("genre", pa.int64())], metadata={"huggingface": json.dumps({"info": {"features": features}})})
    names = features["genre"]["names"]
    return pa.Table.from_pylist([
        {"file": f"/x/{genre}.{number:05}.wav", "genre": names.index(genre),
         "audio": {"bytes": noise(seed), "path": f"{genre}.{number:05}.wav"}}
        for seed, (genre, number) in enumerate(TRACKS)], schema)


def parquet(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(packed_table(), file)
    return file


def arrow(folder):
    folder.mkdir(parents=True)
    table = packed_table()
    with pa.OSFile(str(folder / "gtzan-train-00000-of-00001.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    return folder


def hub(folder, make):
    """The cache of the hub: files are links to blobs."""
    repository = folder / "hub" / "datasets--marsyas--gtzan"
    made = make(repository / "blobs" / ("data.parquet" if make is parquet else "genres.tar.gz"))
    link = repository / "snapshots" / "76f7a7" / "data" / made.name
    link.parent.mkdir(parents=True)
    link.symlink_to(made)
    return folder


def table(folder):
    gtzan(folder / "audio")
    rows = [f"audio/{genre}/{genre}.{number:05}.wav,{genre}" for genre, number in TRACKS]
    write(folder / "mine.csv", "\n".join(["path,genre", *rows]).encode())
    return folder / "mine.csv"


LAYOUTS = {
    "a folder per genre": gtzan, "genres": lambda folder: gtzan(folder / "genres").parent, "Kaggle's folder": kaggle,
    "Kaggle's Data": lambda folder: kaggle(folder) / "Data", "Kaggle's zip": lambda folder: zipped(folder, kaggle),
    "genres.tar.gz": lambda folder: tarred(folder / "genres.tar.gz"),
    "a folder with genres.tar.gz": lambda folder: tarred(folder / "genres.tar.gz").parent,
    "torchaudio's home": torchaudio, "mirdata's home": mirdata,
    "all of mirdata": lambda folder: mirdata(folder / "gtzan_genre").parent,
    "parquet": lambda folder: parquet(folder / "train.parquet"),
    "a folder of parquet": lambda folder: parquet(folder / "gtzan" / "train" / "0000.parquet").parent.parent.parent,
    "arrow": arrow, "the hub's cache": lambda folder: hub(folder, tarred),
    "the hub's cache of parquet": lambda folder: hub(folder, parquet),
    "the data set in the hub's cache": lambda folder: hub(folder, tarred) / "hub" / "datasets--marsyas--gtzan",
    "another spelling": lambda folder: gtzan(folder, "{Genre}/{Genre}.{number:05}.WAV"),
    "names without dots": lambda folder: gtzan(folder, "{Genre}/{genre}{number:05}.wav"), "a table": table,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gtzan_is_the_same_in_every_layout(tmp_path, layout):
    source = LAYOUTS[layout](tmp_path / "corpus")
    for _ in range(2):  # the second time from what was unpacked
        tracks = read_corpus(source)
        assert tracks.track_id.to_list() == [f"{genre}.{number:05}" for genre, number in TRACKS]
        assert tracks.genre.to_list() == [genre for genre, _ in TRACKS]
        known = [None if pd.isna(artist) else artist for artist in tracks.artist]
        assert known == ARTISTS
        assert (tracks.problem == "").all() and np.allclose(tracks.duration_s, 0.2, atol=1e-3)


@pytest.mark.parametrize("layout", ["Kaggle's folder", "Kaggle's zip", "parquet", "the hub's cache", "a table"])
def test_audit_and_study_take_it_too(tmp_path, layout):
    from genre_study.study import check_settings, prepare_data

    source = LAYOUTS[layout](tmp_path / "corpus")
    found = audit_corpus(source, progress=False)
    assert set(found.finding) == {"too short to compare"} and len(found) == len(TRACKS)
    store = prepare_data(check_settings({"corpus": str(source), "data_dir": str(tmp_path / "data"), "protocol": "track",
                                         "workers": 1}))
    assert len(store) == len(TRACKS) and not len(store.problems)


def test_another_archive_under_the_same_name_is_unpacked_anew(tmp_path):
    """Size and time are the same: the content decides."""
    for number, genres in enumerate((("rock", "jazz"), ("folk", "soul"))):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as packed:
            for genre in genres:
                packed.writestr(f"{genre}/0.wav", noise(number))
        os.utime(tmp_path / "a.zip", ns=(0, 0))
        assert set(read_corpus(tmp_path / "a.zip").genre) == set(genres)
    assert len({path.stat().st_size for path in tmp_path.glob("*.zip")}) == 1


def test_a_full_disk_leaves_nothing_of_a_parquet(tmp_path):
    resource = pytest.importorskip("resource")
    parquet(tmp_path / "a.parquet")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError):
            read_corpus(tmp_path / "a.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_parquet_that_is_cut_or_of_another_kind_is_named(tmp_path):
    whole = parquet(tmp_path / "a.parquet").read_bytes()
    for n_bytes in (0, 4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"cut\.parquet is not a whole table"):
            read_corpus(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet has the columns \['a'\]; expected audio and genre"):
        read_corpus(tmp_path / "other.parquet")
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "cut.parquet", "other.parquet"]


def test_rows_of_one_name_in_parquet_are_all_kept(tmp_path):
    rows = [{"genre": genre, "audio": {"bytes": noise(number), "path": "audio.wav"}}
            for number, genre in enumerate(["rock", "rock", "jazz", "rock"])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    tracks = read_corpus(tmp_path / "a.parquet")
    assert tracks.genre.value_counts().to_dict() == {"rock": 3, "jazz": 1}
    assert len({Path(path).read_bytes() for path in tracks.path}) == 4
    rows.append({"genre": "jazz", "audio": {"bytes": None, "path": None}})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="row 4 has neither audio nor a path"):
        read_corpus(tmp_path / "b.parquet")
    assert sorted(name.partition("-")[0] for name in os.listdir(tmp_path)) == ["a", "a.parquet", "b.parquet"]


def test_names_in_parquet_stay_inside(tmp_path):
    rows = [{"genre": genre, "audio": {"bytes": noise(0), "path": path}} for genre, path in (
        ("../../evil", "a.wav"), ("rock", "/etc/b.wav"), ("jazz", "..\\..\\c.wav"), ("..", "d.wav"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    tracks = read_corpus(tmp_path / "a.parquet")
    assert len(tracks) == 4 and all(Path(path).resolve().is_relative_to(tmp_path) for path in tracks.path)
    assert len(os.listdir(tmp_path)) == 2


# FMA, ISMIR04, tags

FMA = ("small", [(2, "Hip-Hop", "AWOL"), (5, "Hip-Hop", "AWOL"), (134, "Hip-Hop", "AWOL"), (1482, "Rock", "Ben"),
                 (9001, "", "Cy"), (155066, "Folk", "Dé, \"D\"")])


def fma(folder, metadata=True):
    subset, rows = FMA
    for number, _, _ in rows:
        write(folder / f"fma_{subset}" / f"{number:06}"[:3] / f"{number:06}.mp3", noise(number, kind="MP3"))
    if metadata:
        columns = [("artist", "name"), ("artist", "bio"), ("track", "genre_top"), ("track", "title")]
        frame = pd.DataFrame(
            [(name, "a\nbio", genre, "title") for _, genre, name in rows], columns=pd.MultiIndex.from_tuples(columns),
            index=pd.Index([number for number, _, _ in rows], name="track_id"))
        (folder / "fma_metadata").mkdir()
        frame.to_csv(folder / "fma_metadata" / "tracks.csv")
    return folder


@pytest.mark.parametrize("point", ["", "fma_small"])
def test_fma_has_its_genres_from_the_metadata(tmp_path, point):
    with pytest.warns(UserWarning, match="1 of 6 files of FMA are left out"):
        tracks = read_corpus(fma(tmp_path) / point).set_index("track_id")
    assert tracks.genre.to_dict() == {f"{number:06}": genre for number, genre, _ in FMA[1] if genre}
    assert tracks.artist.to_dict() == {f"{number:06}": artist for number, genre, artist in FMA[1] if genre}


@pytest.mark.parametrize("point", ["", "fma_small"])
def test_fma_without_metadata_is_refused(tmp_path, point):
    with pytest.raises(ValueError, match=r"don't look like genres: their names are numbers \(000, "
                                         r"001.*fma_metadata\.zip"):
        read_corpus(fma(tmp_path, metadata=False) / point)


def test_ismir04_has_its_genres_from_the_track_lists(tmp_path):
    rows = []
    played = [("classical", "ann"), ("classical", "bob"), ("jazz_blues", "cy"), ("world", "ann")]
    for number, (genre, artist) in enumerate(played):
        name = f"{genre}/{artist}/album/{number}-title"
        write(tmp_path / "audio" / "training" / f"{name}.mp3", noise(number, kind="MP3"))
        rows.append(f'"{genre}","{artist}","album","title","{number}","./{name}.mp3"')
    with_names = read_corpus(tmp_path)
    (tmp_path / "metadata" / "training").mkdir(parents=True)
    (tmp_path / "metadata" / "training" / "tracklist.csv").write_text("\n".join(rows))
    listed = read_corpus(tmp_path)
    for tracks in (with_names, listed):  # without the track list, the folders tell the genres, and no artists
        assert tracks.genre.to_list() == ["classical", "classical", "jazz_blues", "world"]
    assert listed.artist.to_list() == ["ann", "bob", "cy", "ann"] and with_names.artist.isna().all()


def tagged(folder, rows):
    for number, (artist, genre) in enumerate(rows):
        tags = {name: value for name, value in (("artist", artist), ("genre", genre)) if value}
        write(folder / (artist or "unknown") / "album" / f"{number}.flac", **tags)
    return folder


def test_a_player_s_folders_are_read_by_their_tags(tmp_path):
    rows = [("Ann", "Rock"), ("Ann", "rock "), ("Bob", "Jazz"), ("Béla", "Jazz"), ("Cy", "")]
    with pytest.warns(UserWarning) as told:
        tracks = read_corpus(tagged(tmp_path, rows))
    assert tracks.genre.value_counts().to_dict() == {"rock": 2, "Jazz": 2}
    assert set(tracks.artist) == {"Ann", "Bob", "Béla"}
    words = " ".join(str(one.message) for one in told)
    assert "1 files are left out, since their tags have no genre: Cy/album/4.flac" in words


# What only looks like genres

def folders(folder, names, n_files=3, artist=None):
    for name in names:
        for number in range(n_files):
            write(folder / name / f"{number}.flac", **({"artist": artist(name)} if artist else {}))
    return folder


@pytest.mark.parametrize("make, found", [
    (lambda folder: folders(folder, ["000", "001", "002"]), "their names are numbers"),
    (lambda folder: folders(folder, [str(year) for year in range(1990, 1996)]), "their names are numbers"),
    (lambda folder: folders(folder, [f"Artist {number}" for number in range(30)], 2), "there are 30 folders with about "
                                                                                      "2 files each"),
    (lambda folder: folders(folder, ["Ann", "Bob", "Cy"], artist=str), "are also the artists in the tags"),
    (lambda folder: folders(folder, ["A", "B"], artist="The {} band".format), "each folder has files of one artist "
                                                                              "only"),
    (lambda folder: folders(folder, ["best of", "x"], artist={"best of": "Ann", "x": "Bob"}.get), "one artist only"),
])
def test_what_looks_like_no_genres_is_refused(tmp_path, make, found):
    with pytest.raises(ValueError, match=found) as caught:
        read_corpus(make(tmp_path))
    assert "Expected one folder per genre" in str(caught.value)
    assert "a CSV with the columns path, genre" in str(caught.value)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in tmp_path.rglob("*.flac")]
    (tmp_path / "say.csv").write_text("\n".join(["path,genre", *rows]))
    assert len(read_corpus(tmp_path / "say.csv")) == len(rows)  # how to say otherwise


@pytest.mark.parametrize("names", [["Rock", "Hip-Hop"], ["drum & bass", "Techno", "my own"],
                                   ["Musica", "Soul", "R&B", "x"], ["calm", "loud"],
                                   [f"style {number}" for number in range(12)]])
def test_what_looks_like_genres_is_taken(tmp_path, names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracks = read_corpus(folders(tmp_path, names))
    assert set(tracks.genre) == set(names)


def test_a_genre_that_one_artist_plays_is_a_genre(tmp_path):
    """Names that others use for genres are believed, whatever the tags say."""
    assert set(read_corpus(folders(tmp_path, ["Rock", "Jazz"], artist=str)).genre) == {"Rock", "Jazz"}


def test_several_corpora_side_by_side_are_named(tmp_path):
    gtzan(tmp_path / "one" / "genres")
    gtzan(tmp_path / "two" / "genres")
    with pytest.raises(ValueError, match=r"point at one of the folders.*one/genres, .*two/genres"):
        read_corpus(tmp_path)


# Names

@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["Música", "Rock", "Drum and Bass", "Ñandú"]),
                          st.sampled_from(["NFC", "NFD"]), st.sampled_from([str, str.lower, str.upper, str.title]),
                          st.sampled_from(["", " ", "  "])),
                min_size=2, max_size=8), st.randoms())
def test_one_genre_in_any_spelling(tmp_path_factory, spelled, random):
    folder = tmp_path_factory.mktemp("names")
    for number, (name, form, case, blank) in enumerate(spelled):
        write(folder / "audio" / f"{number}.wav", noise(number, 0.01))
        spelled[number] = (name, unicodedata.normalize(form, case(name)) + blank)
    forms = [random.choice(["NFC", "NFD"]) for _ in spelled]
    rows = pd.DataFrame({"path": [f"audio/{number}.wav" for number in range(len(spelled))],
                         "genre": [genre for _, genre in spelled],
                         "artist": [unicodedata.normalize(form, f" Béla  {name}")
                                    for form, (name, _) in zip(forms, spelled)]})
    rows.to_csv(folder / "tracks.csv", index=False)
    n_genres = len({name for name, _ in spelled})
    if n_genres < 2:
        with warnings.catch_warnings(), pytest.raises(ValueError, match="one genre only"):
            warnings.simplefilter("ignore")
            read_corpus(folder / "tracks.csv")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracks = read_corpus(folder / "tracks.csv")
    assert tracks.genre.nunique() == n_genres == tracks.artist.nunique()
    for text in [*tracks.genre, *tracks.artist]:
        assert unicodedata.is_normalized("NFC", text) and text == " ".join(text.split())


def test_artists_in_two_spellings_stay_on_one_side(tmp_path):
    from genre_study.split import check_split, split_tracks

    for genre in ("pop", "soul"):
        for number in range(12):
            form = "NFC" if number % 2 else "NFD"
            write(tmp_path / genre / f"{genre}{number}.flac", artist=unicodedata.normalize(form, f"Béla {number // 4}"))
    rows = [(path.stem, sf.SoundFile(path).copy_metadata()["artist"]) for path in tmp_path.rglob("*.flac")]
    pd.DataFrame(rows, columns=["track_id", "artist"]).to_csv(tmp_path / "tracks.csv", index=False)
    tracks = read_corpus(tmp_path)
    assert tracks.artist.nunique() == 3
    split = split_tracks(tracks, "artist", seed=0)
    check_split(split, protocol="artist")
    assert split.groupby("artist").split.nunique().eq(1).all()


@pytest.mark.parametrize("files, listed", [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_a_table_of_artists_fits_in_any_composition(tmp_path, files, listed):
    for genre in ("a", "b"):
        for name in ("Café", "Niño"):
            write(tmp_path / genre / f"{genre} {unicodedata.normalize(files, name)}.wav")
    rows = [(f" {genre}  {unicodedata.normalize(listed, name)}", "Ann") for genre in "ab" for name in ("Café", "Niño")]
    pd.DataFrame(rows, columns=["track_id", "artist"]).to_csv(tmp_path / "tracks.csv", index=False)
    tracks = read_corpus(tmp_path)
    assert tracks.artist.eq("Ann").all() and all(unicodedata.is_normalized("NFC", name) for name in tracks.track_id)
    assert all(Path(path).exists() for path in tracks.path)


# Formats and faults

def test_no_genre_vanishes_whatever_its_format(tmp_path):
    for suffix in (".webm", ".mp4", ".oga", ".caf", ".wv", ".mka", ".aif", ".m4a"):
        write(tmp_path / f"genre{suffix}" / f"x{suffix}", noise(0) if suffix != ".oga" else noise(0, kind="OGG"))
    write(tmp_path / "none" / "x", noise(0))
    write(tmp_path / "none" / "README", b"not audio")
    tracks = read_corpus(tmp_path)
    assert len(tracks) == tracks.genre.nunique() == 9
    assert tracks.set_index("genre").problem["none"] == tracks.set_index("genre").problem["genre.oga"] == ""


def test_a_genre_folder_without_audio_is_told(tmp_path):
    folders(tmp_path, ["rock", "jazz"], 1)
    write(tmp_path / "pop" / "notes.txt", b"x")
    with pytest.warns(UserWarning, match="without audio.*'pop'"):
        assert set(read_corpus(tmp_path).genre) == {"rock", "jazz"}


@pytest.mark.parametrize("content, match", [
    (b"path,genre\n0.wav,a\n1.wav,\n", "1 rows without a genre, row 3 first"), (b"path;genre\n0.wav;a\n", "expected "
                                                                                                          "path, "
                                                                                                          "genre"),
    (b"file,genre\n0.wav,a\n", r"\['path'\] missing"), (b"path,genre\ngone.wav,a\nlost.wav,b\n", "none of the 2 files"),
    (b"", "not a readable table"), (b"\xff\xfe\x00", "not a readable table"),
    (b"path,genre\n0.wav,a\n1.wav,b,c,d\n", "not a readable")])
def test_a_table_that_can_not_be_used_is_named(tmp_path, content, match):
    write(tmp_path / "0.wav")
    write(tmp_path / "1.wav")
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        read_corpus(tmp_path / "t.csv")
    assert "t.csv" in str(caught.value) and "\n" not in str(caught.value).strip()


def test_a_table_with_some_missing_files_has_rows_for_them(tmp_path):
    write(tmp_path / "0.wav")
    write(tmp_path / "1.wav")
    (tmp_path / "t.csv").write_text("path,genre,artist\n0.wav,a,Ann\n1.wav,b,\ngone.wav,b,Bob\n", encoding="utf-8-sig")
    tracks = read_corpus(tmp_path / "t.csv").set_index("track_id")
    assert tracks.problem.ne("").to_dict() == {"0": False, "1": False, "gone": True}
    assert "No such file" in tracks.problem["gone"] and tracks.artist.isna().to_list() == [False, True, False]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_locked_file_is_a_row_and_a_locked_archive_one_line(tmp_path):
    folders(tmp_path, ["rock", "jazz"], 1)
    (tmp_path / "rock" / "0.flac").chmod(0)
    assert "Permission denied" in read_corpus(tmp_path).set_index("genre").problem["rock"]
    (tmp_path / "a.zip").touch(0)
    with pytest.raises(OSError, match=r"Permission denied.*a\.zip"):
        read_corpus(tmp_path / "a.zip")


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    gtzan(tmp_path / "music")
    assert len(read_corpus("~/music")) == len(TRACKS)


def test_a_listing_says_where_it_looked(tmp_path):
    assert find_tracks(kaggle(tmp_path)).root == tmp_path / "Data" / "genres_original"


def coded(path, seed=0, **tags):
    """A fifth of a second of noise, coded by ffmpeg, with tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ffmpeg", "-v", "error", "-y", "-f", "wav", "-i", "pipe:0"]
    for name, value in tags.items():
        command += ["-metadata", f"{name}={value}"]
    extra = ["-write_id3v2", "1"] if path.suffix.startswith(".aif") else []
    subprocess.run([*command, *extra, str(path)], input=noise(seed), check=True)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", [".m4a", ".wma", ".aif", ".mka", ".mp3"])
def test_tags_are_read_from_every_format(tmp_path, suffix):
    songs = [("Ann Ö", "Drum & Bass"), ("Ann Ö", "Soul; live = yes"), ("Bob", "Jazz")]
    for seed, (artist, genre) in enumerate(songs * 2):
        coded(tmp_path / artist / f"album {seed % 2}" / f"{seed}{suffix}", seed, artist=artist, genre=genre)
    tracks = read_corpus(tmp_path)
    assert sorted(tracks.genre.unique()) == ["Drum & Bass", "Jazz", "Soul; live = yes"] and len(tracks) == 6
    assert set(tracks.artist) == {"Ann Ö", "Bob"}


@pytest.mark.parametrize("root, folders", [
    ("Ann", {"First album": [("Ann", "Jazz"), ("Ann", "Soul")], "Second album": [("Ann", "Soul"), ("Ann", "Jazz")]}),
    ("Crates", {"Friday set": [("Ann", "House"), ("Bob", "Techno")], "Warmup": [("Cy", "House"), ("Di", "House")]}),
    ("By artist", {"Ann": [("", "Jazz")] * 3, "Bob": [("", "Jazz")] * 3, "Cy": [("", "Soul")] * 3}),
])
def test_folders_that_the_tags_contradict_are_not_taken_for_genres(tmp_path, root, folders):
    """The tags are, and a warning says so."""
    for folder, pairs in folders.items():
        for number, (artist, genre) in enumerate(pairs):
            tags = {name: tag for name, tag in (("artist", artist), ("genre", genre)) if tag}
            write(tmp_path / root / folder / f"{folder} {number}.flac", **tags)
    with pytest.warns(UserWarning, match=r"genres are taken from tags.*If they are, give a table"):
        tracks = read_corpus(tmp_path / root)
    expected = [genre for pairs in folders.values() for _, genre in pairs]
    assert sorted(tracks.genre) == sorted(expected)


def test_folders_of_unknown_genres_are_believed(tmp_path):
    """Their files may be tagged with one genre for all, with the folder's own, or by many artists in any order."""
    for genre in ("Corridos", "Norteña", "Huapango"):
        for number in range(9):
            tag = {"Corridos": "Corridos", "Norteña": "Norteña", "Huapango": "Huapango"}[genre]
            write(tmp_path / "a" / genre / f"Artist {number // 3} of {genre} - {number}.flac", genre=tag,
                  artist=f"Artist {number // 3} of {genre}")
            write(tmp_path / "b" / genre / f"{number}.flac", genre="Regional", artist=f"Artist {number % 3}")
    for name in "ab":
        assert sorted(read_corpus(tmp_path / name).genre.unique()) == ["Corridos", "Huapango", "Norteña"]


def test_all_albums_of_one_artist_are_no_genres(tmp_path):
    for album in ("First", "Second"):
        for number in range(3):
            write(tmp_path / "Ann" / album / f"{number}.flac", artist="Ann")
    with pytest.raises(ValueError, match="don't look like genres: all files are by Ann"):
        read_corpus(tmp_path / "Ann")


def test_advice_names_no_genre_as_a_folder_of_genres(tmp_path):
    """House/Ann/cd 1/x.wav: "point at House" would make artists of House genres."""
    for number, place in enumerate(("House/Ann", "House/Bob", "My techno/Cy", "My techno/Di")):
        write(tmp_path / place / "x.wav", noise(number))
    with pytest.raises(ValueError, match="give a table") as refused:
        find_tracks(tmp_path)
    assert "/House)" not in str(refused.value) and "/House," not in str(refused.value)


@pytest.mark.parametrize("link", ["genres", "Data/genres_original", "genres/blues"])
def test_links_out_of_the_corpus_are_followed_wherever_they_are(tmp_path, link):
    corpus = gtzan(tmp_path / "corpus" / Path(link).parts[0] if link.count("/") == 0 else
                   tmp_path / "corpus" / "/".join(link.split("/")[:1 + link.startswith("Data")]))
    moved = tmp_path / "corpus" / link
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert corpus.exists() and sorted(read_corpus(tmp_path / "corpus").genre) == sorted(genre for genre, _ in TRACKS)


def test_a_cache_with_several_data_sets_gives_gtzan_or_asks(tmp_path):
    hub = tmp_path / "hub"
    for name, age in (("marsyas--gtzan", 9), ("someone--speech_commands", 1), ("x--imdb", 0)):
        file = hub / f"datasets--{name}" / "snapshots" / "a1" / "data.parquet"
        if "gtzan" in name:
            parquet(file)
        else:
            file.parent.mkdir(parents=True)
            pq.write_table(pa.table({"text": ["x"], "label": [0]}), file)
        os.utime(file.parent, (time.time() - 100 * age,) * 2)
    assert len(read_corpus(hub)) == 6 and len(read_corpus(tmp_path)) == 6
    shutil.rmtree(hub / "datasets--marsyas--gtzan")
    with pytest.raises(ValueError, match="holds several data sets of the hub: datasets--someone--speech_commands, "):
        read_corpus(hub)


def test_rows_without_a_label_are_left_out_with_a_word(tmp_path):
    table = packed_table()
    labels = table["genre"].to_pylist()
    for number, nothing in ((1, -1), (4, None)):
        labels[number] = nothing
    place = table.schema.get_field_index("genre")
    pq.write_table(table.set_column(place, table.schema.field("genre"), pa.array(labels, pa.int64())),
                   tmp_path / "x.parquet")
    with pytest.warns(UserWarning, match="2 rows of .* left out, since they have no genre"):
        tracks = read_corpus(tmp_path / "x.parquet")
    kept = [genre for number, (genre, _) in enumerate(TRACKS) if number not in (1, 4)]
    assert sorted(tracks.genre) == sorted(kept)


def test_what_the_library_datasets_computed_is_no_music(tmp_path):
    folder = arrow(tmp_path / "cache")
    shutil.copy(next(folder.glob("*.arrow")), folder / "cache-0123456789abcdef.arrow")
    assert len(read_corpus(folder)) == 6


def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    """In its folder too, beside what was unpacked of the old one; the archive itself may be named as well."""
    archive = zipped(tmp_path, gtzan)
    assert len(read_corpus(tmp_path)) == 6
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("rock/new.wav", noise(9))
    assert len(read_corpus(tmp_path)) == 7 and len(read_corpus(archive)) == 7 and len(read_corpus(tmp_path)) == 7


def test_several_archives_are_named(tmp_path):
    zipped(tmp_path, gtzan).rename(tmp_path / "fma_small.zip")
    (tmp_path / "fma_metadata.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"holds several archives: fma_metadata\.zip, fma_small\.zip\. Name the one"):
        find_tracks(tmp_path)


def test_a_zip_made_on_windows_has_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for seed, (genre, number) in enumerate(TRACKS):
            info = zipfile.ZipInfo("x")
            info.filename = f"Data\\genres_original\\{genre.upper()}\\{genre}.{number:05}.WAV"
            packed.writestr(info, noise(seed))
        info = zipfile.ZipInfo("x")
        info.filename = "..\\..\\outside.wav"
    assert sorted(read_corpus(tmp_path / "x.zip").genre) == sorted(genre for genre, _ in TRACKS)


@pytest.mark.parametrize("damage", ["header of zeros", "bit of a header", "cut in a header", "cut between files"])
@pytest.mark.parametrize("packing", ["", "gz"])
def test_a_damaged_tar_is_never_read_in_part(tmp_path, damage, packing):
    """tarfile takes a broken header for the end, and says nothing."""
    inside, plain = gtzan(tmp_path / "genres"), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as packed:
        packed.add(inside, "genres")
    with tarfile.open(fileobj=io.BytesIO(plain.getvalue())) as packed:
        offset = packed.getmembers()[-2].offset
    data = bytearray(plain.getvalue())
    if damage == "header of zeros":
        data[offset:offset + 512] = bytes(512)
    elif damage == "bit of a header":
        data[offset + 30] ^= 8
    else:
        data = data[:offset + (100 if damage == "cut in a header" else 0)]
    whole = gzip.compress(bytes(data)) if packing else bytes(data)
    file = tmp_path / f"genres.tar{packing and '.gz'}"
    file.write_bytes(gzip.compress(plain.getvalue()) if packing else plain.getvalue())
    assert len(read_corpus(file)) == 6
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"can't be unpacked: it is (cut off or )?damaged after"):
        read_corpus(file)


def test_a_gtzan_track_that_is_there_twice_is_named(tmp_path):
    gtzan(tmp_path)
    write(tmp_path / "blues" / "blues-00000.wav", noise(0))
    with pytest.warns(UserWarning, match="1 of 7 tracks have a GTZAN name that another track has too"):
        assert read_corpus(tmp_path).artist.isna().all()


def test_empty_tables_are_named(tmp_path):
    (tmp_path / "x.csv").write_text("path,genre,artist\n")
    with pytest.raises(ValueError, match="has no rows; expected one row per track"):
        read_corpus(tmp_path / "x.csv")


def test_names_that_were_given_stay_apart_from_names_of_files(tmp_path):
    for name in ("a/x.wav", "b/y.wav", "b/z.wav"):
        write(tmp_path / name, noise(1))
    (tmp_path / "t.csv").write_text("path,genre,track_id\na/x.wav,jazz,y\nb/y.wav,pop,\nb/z.wav,pop,\n")
    assert read_corpus(tmp_path / "t.csv").track_id.is_unique


def test_spellings_of_a_genre_in_tags_are_one(tmp_path):
    for number, genre in enumerate(["Hip-Hop", "Hip Hop", "hiphop", "Jazz", "R&B", "RnB"]):
        write(tmp_path / "Ann" / "album" / f"{number}.flac", artist="Ann", genre=genre)
    with pytest.warns(UserWarning, match="in several spellings are read as one"):
        assert read_corpus(tmp_path).genre.nunique() == 3


def test_loose_files_and_tracks_without_a_row_are_named(tmp_path):
    gtzan(tmp_path / "x")
    write(tmp_path / "x" / "loose.wav", noise(0))
    with pytest.warns(UserWarning, match="1 audio files are left out, since they lie in no genre folder: 'loose.wav'"):
        assert len(read_corpus(tmp_path / "x")) == 6
    base = tmp_path / "ismir"
    for genre, name in (("classical", "a"), ("rock_pop", "b"), ("x", "extra")):
        write(base / "audio" / "training" / genre / f"{name}.mp3.wav", noise(1))
    rows = [f'"{genre}","ann","album","track","1","{genre}/{name}.mp3.wav"'
            for genre, name in (("classical", "a"), ("rock_pop", "b"), ("rock_pop", "gone"))]
    write(base / "metadata" / "training" / "tracklist.csv", "\n".join(rows).encode())
    with pytest.warns(UserWarning) as caught:
        assert len(read_corpus(base)) == 2
    said = " ".join(str(one.message) for one in caught)
    assert "1 rows of tracklist.csv" in said and "gone" in said and "1 files are in no tracklist.csv" in said


def test_files_without_a_suffix_are_music_everywhere(tmp_path):
    from genre_study.core.audio import is_audio_file

    write(tmp_path / "song", noise(0))
    write(tmp_path / "README", b"words")
    (tmp_path / "LOCK").mkdir()
    assert [name for name in ("song", "README", "LOCK", "x.MP2", "x.txt") if is_audio_file(tmp_path / name)] == [
        "song", "x.MP2"]
