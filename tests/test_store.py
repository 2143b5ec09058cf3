"""The store: what processes, file systems and other people's files can do to it."""
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genre_study.core import content as content_module
from genre_study.core.audio import load_audio
from genre_study.core.workers import in_processes
from genre_study.mel import MelSpec, log_mel
from genre_study.storage.disk import LocalDisk, _maker_mark
from genre_study.storage.ready_made import import_spectrograms
from genre_study.storage.writer import _cut, _open_array, open_store, safe_name
from genre_study.store import build_store


def write_corpus(folder, n_tracks, seconds=1.0, seed=0):
    """Noise, a track each; the table of tracks."""
    folder.mkdir(parents=True, exist_ok=True)
    random, rows = np.random.default_rng(seed), []
    for number in range(n_tracks):
        file = folder / f"noise.{number:05d}.wav"
        soundfile.write(file, random.normal(0, 0.1, int(22050 * seconds)), 22050)
        rows.append({"track_id": file.stem, "path": str(file), "genre": f"genre{number % 3}", "artist": None})
    return pd.DataFrame(rows)


def content(store):
    """All that a store holds, to compare two."""
    return ({track_id: store.frames(track_id).tobytes() for track_id in store.tracks.track_id},
            store.tracks.to_dict("records").__repr__(), store.problems.to_dict("records").__repr__())


def row_of(folder, track_id):
    """The row of a track, as it stands on disk."""
    return json.loads((folder / "rows" / f"{safe_name(track_id)}.json").read_text())


def array_of(folder, track_id):
    """The folder of a track's array."""
    return folder / "frames" / row_of(folder, track_id)["array"]


def assert_clean(folder):
    """No file is left that does not belong there: each array is named by a row, and no process needs to come back."""
    assert sorted(p.name for p in folder.iterdir()) == [".new", "frames", "index.json", "rows", "zarr.json"]
    assert list((folder / ".new").iterdir()) == []
    rows = [json.loads(file.read_text()) for file in (folder / "rows").iterdir()]
    named = {row["array"] for row in rows if "array" in row}
    assert {p.name for p in (folder / "frames").iterdir()} == {*named, "zarr.json"}


def test_zarr_reads_what_is_on_disk(tmp_path):
    store = build_store(write_corpus(tmp_path / "audio", 2), tmp_path / "store", progress=False)
    group = zarr.open_group(tmp_path / "store", mode="r")
    arrays = {array.attrs["track_id"]: array for _, array in group["frames"].arrays()}
    assert sorted(arrays) == ["noise.00000", "noise.00001"]
    for track_id, array in arrays.items():
        assert np.array_equal(array[:], store.frames(track_id))
        assert array.metadata.dimension_names == ("frame", "mel band")
    assert MelSpec.from_dict(group.attrs["genre_study"]["spec"]) == MelSpec()


def test_an_array_that_zarr_wrote_in_another_way_is_read_too(tmp_path):
    """Compressed, and in several chunks: what counts is what the array's own metadata says."""
    folder = tmp_path / "store"
    frames = build_store(write_corpus(tmp_path / "audio", 1), folder, progress=False).frames("noise.00000")
    place = array_of(folder, "noise.00000")
    shutil.rmtree(place)
    zarr.create_array(place, data=frames[:, ::-1].astype(">f2"), chunks=(10, 128))
    assert np.array_equal(_cut(_open_array(LocalDisk(folder), place.name), 128, 5, 30), frames[5:30, ::-1])


def test_a_store_elsewhere_is_the_same_as_one_here(tmp_path):
    url = "memory://corpus/store"
    tracks = write_corpus(tmp_path / "audio", 4)
    tracks.loc[4] = ["gone", str(tmp_path / "gone.wav"), "genre0", None]
    here = build_store(tracks, tmp_path / "store", workers=1, progress=False)
    elsewhere = build_store(tracks, url, workers=1, progress=False)
    assert content(elsewhere) == content(here) == content(open_store(url))
    corrected = build_store(tracks.assign(artist="Someone"), url, workers=1, progress=False)
    assert set(corrected.tracks.artist) == {"Someone"} and content(corrected)[0] == content(here)[0]
    soundfile.write(tracks.path[0], np.random.default_rng(9).normal(0, 0.1, 30000), 22050)
    assert build_store(tracks, url, workers=1, progress=False).frames("noise.00000").shape == (59, 128)
    assert elsewhere.frames("noise.00000").shape == (44, 128)
    with pytest.raises(ValueError, match="n_mels 128 and not 64"):
        build_store(tracks, url, MelSpec(n_mels=64), workers=1, progress=False)


def test_real_tracks_from_audio(gtzan, tmp_path):
    files = sorted((gtzan / "mini" / "genres").rglob("*.flac"))[::10]
    tracks = pd.DataFrame({"track_id": [f.stem for f in files], "path": [str(f) for f in files],
                           "genre": [f.parent.name for f in files]})
    store = build_store(tracks, tmp_path / "store", workers=2, progress=False)
    assert len(store) == 10 and not len(store.problems)
    assert store.tracks.genre.nunique() == 10
    assert store.tracks.n_frames.between(1292, 1310).all()
    for track in store.tracks.itertuples():
        expected = log_mel(load_audio(track.path)).T
        assert np.array_equal(store.frames(track.track_id), expected.astype(np.float16))
    assert_clean(tmp_path / "store")


@pytest.mark.parametrize("spec", [MelSpec(), MelSpec(16000, 1024, 400, 40, fmin_hz=50.0, mel_scale="htk")])
def test_frames_are_those_of_the_waveform(spec, tmp_path):
    """In dB, in time, with the parameters that were asked for; a part of a track is a slice of it."""
    store = build_store(write_corpus(tmp_path / "audio", 2, seconds=3.0), tmp_path / "store", spec, 1, progress=False)
    assert len(store) == 2 and store.silence == -100.0
    for track in store.tracks.itertuples():
        expected = log_mel(load_audio(track.path, spec.sample_rate), spec).T.astype(np.float16)
        np.testing.assert_array_equal(store.frames(track.track_id), expected)
        np.testing.assert_array_equal(store.frames(track.track_id, 11, 29), expected[11:29])
        assert track.duration_s == pytest.approx(3.0, abs=1e-3)


def test_silence_and_clicks_are_problems(tmp_path):
    tracks = write_corpus(tmp_path, 3)
    soundfile.write(tracks.path[0], np.zeros(22050), 22050)
    soundfile.write(tracks.path[1], np.full(900, 0.5), 22050)
    store = build_store(tracks, tmp_path / "store", workers=1, progress=False)
    assert store.tracks.track_id.tolist() == ["noise.00002"]
    assert store.problems.problem.tolist() == ["is silent", "is too short: 900 samples, one window has 2048"]


def test_a_store_that_was_opened_reads_what_was_there(tmp_path):
    """A track that was replaced since stays readable for a while, also after the next writer has swept."""
    tracks = write_corpus(tmp_path / "audio", 1)
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    opened = open_store(tmp_path / "store")
    before = open_store(tmp_path / "store").frames("noise.00000")
    write_corpus(tmp_path / "audio", 1, seed=1)
    after = build_store(tracks, tmp_path / "store", workers=1, progress=False).frames("noise.00000")
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    np.testing.assert_array_equal(opened.frames("noise.00000"), before)
    assert not np.array_equal(before, after)


def test_drafts_of_processes_that_run_are_left_alone(tmp_path):
    """Those of a process that has ended go; of another machine nothing is known."""
    marks = {"running": _maker_mark(), "elsewhere": f"00000000-{os.getpid()}-0123abcd"}
    code = "from genre_study.storage.disk import _maker_mark; print(_maker_mark())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (tmp_path / ".new").mkdir()
    for mark in (*marks.values(), done.stdout.strip()):
        (tmp_path / ".new" / mark).touch()
    LocalDisk(tmp_path).sweep()
    assert {file.name for file in (tmp_path / ".new").iterdir()} == set(marks.values())


@pytest.mark.parametrize("db_range", [None, (-80.0, 0.0)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_pictures_give_each_track_its_own_values(kind, db_range, tmp_path):
    """From the darkest to the brightest, for the ids in their order; in between lie straight lines."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 20)).astype(np.uint8)
    pictures[:, 0, :2] = 0, 255
    ids = ["jazz.2", "pop.1", "jazz.1"]
    np.savez(tmp_path / "mel.npz", ids=ids, mel=pictures if kind == np.uint8 else pictures.astype(kind) / 255)
    options = {"seconds": 2.0, "db_range": db_range, "progress": False}
    store = import_spectrograms(tmp_path / "mel.npz", tmp_path / "store", **options)
    finer = import_spectrograms(tmp_path / "mel.npz", tmp_path / "finer", frames_per_second=25.0, **options)
    assert (store.unit, store.silence) == (("relative", 0.0) if db_range is None else ("db", -100.0))
    assert dict(zip(store.tracks.track_id, store.tracks.genre)) == {"jazz.2": "jazz", "pop.1": "pop", "jazz.1": "jazz"}
    low, high = db_range or (0.0, 1.0)
    middles_s, frames_s = (np.arange(20) + 0.5) / 10, np.arange(51) / 25
    for track_id, picture in zip(ids, pictures):
        expected = low + (high - low) * picture.T / 255.0
        np.testing.assert_allclose(store.frames(track_id), expected, atol=0.04 if db_range else 5e-4)
        lines = np.stack([np.interp(frames_s, middles_s, band) for band in expected.T], axis=1)
        np.testing.assert_allclose(finer.frames(track_id), lines, atol=0.04 if db_range else 1e-3)


def test_real_spectrograms(gtzan, tmp_path):
    store = import_spectrograms(gtzan / "mel999.npz", tmp_path / "store", frames_per_second=22050 / 512, progress=False)
    assert len(store) == 999 and (store.tracks.n_frames == 1292).all() and store.tracks.genre.nunique() == 10
    with np.load(gtzan / "mel999.npz") as archive:
        row = archive["ids"].tolist().index("rock.00042")
        columns = archive["mel"][row].astype(float) / 255
    middles_s, frames_s = (np.arange(387) + 0.5) / 387 * 30, np.arange(1292) * 512 / 22050
    expected = np.stack([np.interp(frames_s, middles_s, band) for band in columns], axis=1)
    assert np.abs(store.frames("rock.00042") - expected).max() < 1e-3
    facts = pd.read_csv(gtzan / "tracks.csv")
    with_facts = import_spectrograms(gtzan / "mel999.npz", tmp_path / "facts", facts, progress=False)
    assert with_facts.problems.track_id.tolist() == ["jazz.00054"]
    assert with_facts.tracks.n_frames.eq(387).all() and with_facts.tracks.artist.isna().sum() == 80  # and jazz.00054


@pytest.mark.parametrize("workers", [1, 3])
def test_one_process_and_three_give_the_same_bytes(tmp_path, workers):
    tracks = write_corpus(tmp_path / "audio", 12)
    tracks.loc[12] = ["gone", str(tmp_path / "gone.wav"), "genre0", None]
    one = build_store(tracks, tmp_path / "one", workers=1, progress=False)
    other = build_store(tracks.sample(frac=1, random_state=0), tmp_path / "other", workers=workers, progress=False)
    assert content(one) == content(other)
    assert_clean(tmp_path / "other")


BUILD = """
import sys, pandas as pd
from genre_study.store import build_store
build_store(pd.read_json(sys.argv[1]), sys.argv[2], workers=1, progress=False)
"""


def start_builder(tracks, folder):
    tracks.to_json(folder.parent / "tracks.json")
    return subprocess.Popen([sys.executable, "-c", BUILD, str(folder.parent / "tracks.json"), str(folder)],
                            stderr=subprocess.PIPE, text=True)


def test_four_processes_build_one_store(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 40)
    alone = build_store(tracks, tmp_path / "alone", workers=1, progress=False)
    builders = [start_builder(tracks, tmp_path / "together") for _ in range(4)]
    for builder in builders:
        _, errors = builder.communicate(timeout=120)
        assert builder.returncode == 0, errors
    assert content(open_store(tmp_path / "together")) == content(alone)
    assert_clean(tmp_path / "together")


def test_of_two_specs_started_together_one_wins_and_the_other_is_told(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 4)

    def build(n_mels):
        try:
            return build_store(tracks, tmp_path / "store", MelSpec(n_mels=n_mels), workers=1, progress=False)
        except ValueError as error:
            return str(error)

    for _ in range(10):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(build, (32, 64)))
        told = [result for result in results if isinstance(result, str)]
        assert len(told) == 1 and "n_mels" in told[0] and "32" in told[0] and "64" in told[0]
        winner = next(result for result in results if not isinstance(result, str))
        assert all(winner.frames(i).shape[1] == winner.spec.n_mels for i in winner.tracks.track_id)


def test_a_reader_sees_only_whole_tracks_while_a_writer_writes(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 120)
    builder, seen = start_builder(tracks, tmp_path / "store"), []
    while builder.poll() is None:
        try:
            store = open_store(tmp_path / "store")
        except FileNotFoundError:  # not begun yet
            continue
        assert not len(store.problems)
        for track_id in store.tracks.track_id:
            frames = store.frames(track_id)
            assert frames.shape == (44, 128) and frames.max() > -60
        seen.append(len(store))
    assert builder.returncode == 0 and len(open_store(tmp_path / "store")) == 120
    assert seen == sorted(seen) and len(set(seen)) > 3, "the reader never met the writer at work"


@pytest.mark.parametrize("fate", ["crash", pytest.param("hang", marks=pytest.mark.torture)])
def test_a_decoder_that_crashes_or_hangs(fate):
    def job(track):
        if track["track_id"] == "crash":
            os._exit(11)
        if track["track_id"] == "hang":
            import time
            time.sleep(3600)

    names = [*map(str, range(20)), fate, *map(str, range(20, 40))]
    outcomes = {names[number]: problem for number, _, problem in
                in_processes(job, [{"track_id": name} for name in names], workers=2, patience_s=30)}
    assert sorted(outcomes) == sorted(names)
    problems = {name: problem for name, problem in outcomes.items() if problem}
    assert problems == {fate: {"crash": "crashes the decoder, or needs more memory than there is",
                               "hang": "takes longer than 30 s to decode"}[fate]}


ODD_IDS = ["a/b", "a\\b", "../../etc/passwd", "line\nbreak", "tab\t", "🎷🎺", "x" * 250, "ü", "u\u0308", "A", "a", " ",
           "", "zarr.json", "__init__", ".", "..", "<script>alert(1)</script>", "CON"]


def test_odd_track_ids(tmp_path):
    file = write_corpus(tmp_path / "audio", 1).path[0]
    tracks = pd.DataFrame({"track_id": ODD_IDS, "path": file, "genre": "odd", "artist": "Ünïcödé \"quotes\""})
    store = build_store(tracks, tmp_path / "store", workers=1, progress=False)
    assert sorted(store.tracks.track_id) == sorted(ODD_IDS)
    assert all(store.frames(track_id).shape == (44, 128) for track_id in ODD_IDS)
    names = os.listdir(tmp_path / "store" / "rows")
    assert len({name.lower() for name in names}) == len(ODD_IDS)
    assert len(list(zarr.open_group(tmp_path / "store" / "frames", mode="r").array_keys())) == len(ODD_IDS)
    assert max(map(len, map(safe_name, ODD_IDS))) <= 100


def test_changed_audio_and_corrected_labels(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 3)
    before = build_store(tracks, tmp_path / "store", progress=False)
    old = before.frames("noise.00000")
    soundfile.write(tracks.path[0], np.random.default_rng(9).normal(0, 0.1, 30000), 22050)
    (tmp_path / "audio" / "noise.00001.wav").write_bytes(b"overwritten by accident")
    os.unlink(tracks.path[2])
    tracks["artist"] = ["One", "Two", "Three"]
    after = build_store(tracks, tmp_path / "store", progress=False)
    assert after.tracks.track_id.tolist() == ["noise.00000", "noise.00002"]  # a file that is away keeps its frames
    assert after.problems.track_id.tolist() == ["noise.00001"]
    assert after.tracks.artist.tolist() == ["One", "Three"]
    assert after.frames("noise.00000").shape == (59, 128)
    assert np.array_equal(before.frames("noise.00000"), old)  # a store that was opened before reads what it has shown
    shutil.rmtree(tmp_path / "store" / "frames")
    with pytest.raises(OSError, match="open it again"):
        before.frames("noise.00002")


def swap(one, other):
    """Two files change places; their times go with them."""
    os.rename(one, f"{one}.x")
    os.rename(other, one)
    os.rename(f"{one}.x", other)


def rewrite(one, other):
    """New content of the same size, with the old times."""
    status = os.stat(one)
    data = np.random.default_rng(status.st_ino).normal(0, 0.1, 22050)
    soundfile.write(one, data, 22050)
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(one, other):
    """Another file of the same size and times is renamed over it."""
    shutil.copy2(other, f"{one}.x")
    os.utime(f"{one}.x", ns=(os.stat(one).st_atime_ns, os.stat(one).st_mtime_ns))
    os.replace(f"{one}.x", one)


def touch(one, other):
    """Nothing but its times."""
    os.utime(one)


def copy_back(one, other):
    """The same content in a new file."""
    shutil.copy(one, f"{one}.x")
    os.replace(f"{one}.x", one)


@settings(max_examples=6, deadline=None)
@example(settled=True, changes=[(swap, 0, 1)])
@example(settled=True, changes=[(rewrite, 0, 1)])
@example(settled=True, changes=[(replace, 0, 1)])
@example(settled=False, changes=[(swap, 0, 1), (rewrite, 2, 3), (touch, 0, 1), (copy_back, 1, 0)])
@given(settled=st.booleans(), changes=st.lists(
    st.tuples(st.sampled_from([swap, rewrite, replace, touch, copy_back]), st.integers(0, 3), st.integers(0, 3)),
    min_size=1, max_size=4))
def test_tracks_are_kept_by_the_content_of_their_files(tmp_path_factory, changes, settled):
    """Whatever was done to files of equal size: a store built again equals a new one, and only what differs is made."""
    from genre_study import store as store_module

    folder = tmp_path_factory.mktemp("content")
    tracks = write_corpus(folder / "audio", 4)
    for path in tracks.path:
        os.utime(path, ns=(10**18, 10**18))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_module, "SETTLED_S", -1e12 if settled else 2.0)  # as if the files were old, or new
        first = build_store(tracks, folder / "store", workers=1, progress=False)
        old = {track_id: first.content_hash(track_id) for track_id in tracks.track_id}
        for change, one, other in changes:
            if one != other:
                change(tracks.path[one], tracks.path[other])
        made, real = [], store_module.track_frames
        patch.setattr(store_module, "track_frames", lambda path, *rest: made.append(path) or real(path, *rest))
        again = build_store(tracks, folder / "store", workers=1, progress=False)
        patch.undo()
    anew = build_store(tracks, folder / "anew", workers=1, progress=False)
    assert content(again) == content(anew)
    assert set(made) == {path for track_id, path in zip(tracks.track_id, tracks.path)
                         if anew.content_hash(track_id) != old[track_id]}


@pytest.mark.parametrize("change", [rewrite, replace, swap])
def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch, change):
    from genre_study import store as store_module

    tracks = write_corpus(tmp_path / "audio", 2)
    calls, real = [], store_module.track_frames

    def disturbed(path, *rest):
        calls.append(path)
        found = real(path, *rest)
        if len(calls) == 1:
            change(path, *[other for other in tracks.path if other != path])
        return found

    monkeypatch.setattr(store_module, "track_frames", disturbed)
    store = build_store(tracks, tmp_path / "store", workers=1, progress=False)
    monkeypatch.undo()
    assert len(calls) == 3
    assert content(store) == content(build_store(tracks, tmp_path / "anew", workers=1, progress=False))


CHANGING = """
import json, sys, time
import pandas as pd
from genre_study.store import build_store
from genre_study.storage.writer import open_store
tracks, known = pd.read_json(sys.argv[1]), set(json.loads(open(sys.argv[3]).read()))
until = time.time() + float(sys.argv[4])
n_builds = n_reads = 0
while time.time() < until or n_builds < 3:
    store = build_store(tracks, sys.argv[2], workers=1, progress=False)
    assert sorted(store.tracks.track_id) == sorted(tracks.track_id), (len(store), store.problems.to_dict("records"))
    n_builds += 1
    for store in (store, open_store(sys.argv[2])):
        assert not len(store.problems), store.problems.to_dict("records")
        for track_id in store.tracks.track_id:
            store.frames(track_id)
            assert store.content_hash(track_id) in known
            n_reads += 1
print(json.dumps([n_builds, n_reads]))
"""


def changing_store(tmp_path, n_processes, seconds):
    """Processes build and read one store while its files change; builds and reads."""
    tracks = write_corpus(tmp_path / "audio", 10)
    others = write_corpus(tmp_path / "others", 10, seed=1)
    known = {store.content_hash(i) for name, table in (("one", tracks), ("two", others))
             for store in [build_store(table, tmp_path / name, workers=1, progress=False)]
             for i in store.tracks.track_id}
    tracks.to_json(tmp_path / "tracks.json")
    (tmp_path / "known.json").write_text(json.dumps(sorted(known)))
    arguments = [str(tmp_path / "tracks.json"), str(tmp_path / "store"), str(tmp_path / "known.json"), str(seconds)]
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    builders = [subprocess.Popen([sys.executable, "-c", CHANGING, *arguments], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
                for _ in range(n_processes)]
    random = np.random.default_rng(0)
    while any(builder.poll() is None for builder in builders):
        number = random.integers(0, 10)
        swap(tracks.path[number], others.path[number])  # for a moment there is no file
        time.sleep(0.1)
    answers = [builder.communicate() for builder in builders]
    assert [builder.returncode for builder in builders] == [0] * n_processes, [errors[-1500:] for _, errors in answers]
    return [json.loads(output) for output, _ in answers]


def test_a_store_whose_files_change_is_whole_for_all(tmp_path):
    assert all(n_builds > 2 and n_reads > 20 for n_builds, n_reads in changing_store(tmp_path, 2, seconds=5))


@pytest.mark.torture
def test_four_processes_build_and_read_while_files_change(tmp_path, root):
    answers = changing_store(tmp_path, 4, seconds=120)
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "changing_store.json").write_text(json.dumps({
        "processes": 4, "seconds": 120, "builds": sum(n for n, _ in answers), "reads": sum(n for _, n in answers),
        "bad": 0}, indent=1) + "\n")
    assert sum(n for _, n in answers) > 1000


def test_a_problem_that_is_solved_goes(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 2)
    good = (tmp_path / "audio" / "noise.00001.wav").read_bytes()
    (tmp_path / "audio" / "noise.00001.wav").write_bytes(b"")
    assert build_store(tracks, tmp_path / "store", progress=False).problems.problem.tolist() == ["is empty"]
    (tmp_path / "audio" / "noise.00001.wav").write_bytes(good)
    store = build_store(tracks, tmp_path / "store", progress=False)
    assert len(store) == 2 and not len(store.problems)


@pytest.mark.parametrize("damage", ["half a track", "no frames", "no metadata", "a row that is not JSON",
                                    "a row of nothing", "index lies", "index is not JSON", "index is a list",
                                    "index of another version"])
def test_damage_is_seen_and_repaired(tmp_path, damage):
    tracks, folder = write_corpus(tmp_path / "audio", 3), tmp_path / "store"
    whole = content(build_store(tracks, folder, progress=False))
    track, row = array_of(folder, "noise.00001"), folder / "rows" / "noise.00001.json"
    if damage == "half a track":
        os.truncate(track / "c" / "0" / "0", 100)
    elif damage == "no frames":
        os.unlink(track / "c" / "0" / "0")
    elif damage == "no metadata":
        os.unlink(track / "zarr.json")
    elif damage.startswith("a row"):
        row.write_text({"a row that is not JSON": "{", "a row of nothing": "{}"}[damage])
    else:
        (folder / "index.json").write_text({"index lies": '{"noise.00001": {"mark": 1}}', "index is a list": "[1]",
                                            "index is not JSON": "{", "index of another version": '{"a": 1}'}[damage])
    store = open_store(folder)
    if damage.startswith("index"):
        assert content(store) == whole
    else:
        assert len(store) == 2 and store.problems.track_id.tolist() == ["noise.00001"]
        assert "build_store" in store.problems.advice[0]
    assert content(build_store(tracks, folder, progress=False)) == whole


def test_a_damaged_store_is_named(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 1)
    build_store(tracks, tmp_path / "store", progress=False)
    settings = json.loads((tmp_path / "store" / "zarr.json").read_text())
    for text in ("", "[]", "{}", json.dumps({"attributes": {"genre_study": {"format": 1}}})):
        (tmp_path / "store" / "zarr.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            open_store(tmp_path / "store")
    settings["attributes"]["genre_study"]["format"] = 99
    (tmp_path / "store" / "zarr.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="format 99"):
        open_store(tmp_path / "store")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(tmp_path, small_disk, workers):
    tracks = write_corpus(tmp_path / "audio", 30, seconds=5)
    with pytest.raises(OSError, match=r"the disk is full.*tracks in the store are whole") as caught:
        build_store(tracks, small_disk / "store", workers=workers, progress=False)
    store = open_store(small_disk / "store")
    assert 3 < len(store) < 30 and f"{len(store)} tracks" in str(caught.value) and not len(store.problems)
    whole = build_store(tracks, tmp_path / "store", workers=2, progress=False)
    assert all(np.array_equal(store.frames(i), whole.frames(i)) for i in store.tracks.track_id)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)  # room is made
    finished = build_store(tracks, small_disk / "store", workers=workers, progress=False)
    assert content(finished) == content(whole)
    assert_clean(small_disk / "store")


def test_read_only_disk(tmp_path, small_disk, monkeypatch):
    tracks = write_corpus(tmp_path / "audio", 2)
    build_store(tracks[:1], small_disk / "store", progress=False)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert len(build_store(tracks[:1], small_disk / "store", progress=False)) == 1  # nothing to write is no error
    monkeypatch.setattr(content_module, "SETTLED_S", -1e12)  # two seconds later
    assert len(build_store(tracks[:1], small_disk / "store", progress=False)) == 1
    with pytest.raises(OSError, match="can only be read"):
        build_store(tracks, small_disk / "store", workers=1, progress=False)
    with pytest.raises(OSError, match="can only be read"):
        build_store(tracks, small_disk / "new", workers=1, progress=False)
    assert len(open_store(small_disk / "store")) == 1


def test_hostile_archives_of_spectrograms(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "pickle.npz", ids=np.array([Bomb()]), mel=np.zeros((1, 4, 4), np.uint8))
    np.savez(tmp_path / "pickled_mel.npz", ids=np.array(["a.b"]), mel=np.array([[[Bomb()]]]))
    np.savez(tmp_path / "short.npz", ids=np.array(["a.b", "a.c"]), mel=np.ones((2, 4, 4), np.uint8))
    whole = (tmp_path / "short.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[:-30])
    for name in ("pickle", "pickled_mel", "short"):
        with pytest.raises(ValueError, match=f"{name}.npz"):
            import_spectrograms(tmp_path / f"{name}.npz", tmp_path / "store", progress=False)
    with pytest.raises(FileNotFoundError):
        import_spectrograms(tmp_path / "gone.npz", tmp_path / "store", progress=False)
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "store").exists()


def test_spectrograms_of_no_use_are_problems(tmp_path):
    mel = np.random.default_rng(0).random((4, 8, 20), dtype=np.float32)
    mel[1, 0, 0], mel[2], mel[3, 2, 2] = np.nan, 0.5, 30
    np.savez(tmp_path / "mel.npz", ids=np.array(["a.good", "a.nan", "a.flat", "a.loud"]), mel=mel)
    store = import_spectrograms(tmp_path / "mel.npz", tmp_path / "store", seconds=2, progress=False)
    assert store.tracks.track_id.tolist() == ["a.good"] and store.frames_per_second == 10
    assert store.problems.track_id.tolist() == ["a.flat", "a.loud", "a.nan"]
    for said, known in zip(store.problems.problem, ("is the same everywhere", "expected 0 to 1", "NaN or infinite")):
        assert known in said
    assert np.abs(store.frames("a.good") - mel[0].T).max() < 1e-3


def test_an_imported_store_is_never_mixed_with_one_from_audio(tmp_path):
    np.savez(tmp_path / "mel.npz", ids=np.array(["a.b"]), mel=np.eye(128, dtype=np.float32)[None])
    import_spectrograms(tmp_path / "mel.npz", tmp_path / "store", progress=False)
    with pytest.raises(ValueError, match="unit 'relative' and not 'db'"):
        build_store(write_corpus(tmp_path / "audio", 1), tmp_path / "store", progress=False)


def test_a_cluster_builds_the_same_store(tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask is an extra")
    tracks = write_corpus(tmp_path / "audio", 20)
    tracks.loc[20] = ["gone", str(tmp_path / "gone.wav"), "genre0", None]
    alone = build_store(tracks, tmp_path / "alone", workers=1, progress=False)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, \
            distributed.Client(cluster) as client:
        together = build_store(tracks, tmp_path / "together", progress=False, client=client)
    assert content(together) == content(alone)


def test_a_store_shows_the_tracks_that_were_asked_for(tmp_path):
    """Earlier calls leave their tracks in the folder; a later call's store has those of its own table alone."""
    tracks = write_corpus(tmp_path / "audio", 4)
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    some = build_store(tracks.iloc[[1, 3]], tmp_path / "store", workers=1, progress=False)
    assert some.tracks.track_id.tolist() == tracks.track_id.iloc[[1, 3]].tolist()
    assert len(open_store(tmp_path / "store")) == 4


def test_a_folder_with_other_files_is_a_problem(tmp_path):
    """A store is not begun among a reader's own files."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        build_store(write_corpus(tmp_path / "audio", 1), tmp_path, workers=1, progress=False)
    assert not (tmp_path / "zarr.json").exists()
