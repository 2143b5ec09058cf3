"""The synthetic corpus: the same in every process, after kills and refused writes, and neither trivial nor hopeless."""
import os
import signal
import subprocess
import sys
import time
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_study.corpus import read_corpus
from genre_study.synth import minicorpus
from genre_study.synth import song as song_module
from genre_study.synth.minicorpus import render_minicorpus
from genre_study.synth.song import _draw_artist, compose
from genre_study.synth.sound import SAMPLE_RATE, _player, _render_notes, render_song
from genre_study.synth.styles import GENRES, STYLES


def fingerprints(folder):
    """{path below the folder: hash} of all files."""
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def corpus_files(folder):
    """The files of a corpus, without drafts that a kill may leave."""
    return {name: mark for name, mark in fingerprints(folder).items() if not Path(name).name.startswith(".")}


def render_elsewhere(folder, tracks_per_genre, seconds, seed, hash_seed="0"):
    code = (f"from genre_study.synth.minicorpus import render_minicorpus;"
            f"render_minicorpus({str(folder)!r}, {tracks_per_genre}, {seconds}, {seed})")
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": hash_seed},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_same_bytes_in_any_process_and_folder(tmp_path):
    render_minicorpus(tmp_path / "here", 1, seconds=2.0, seed=7)
    others = [render_elsewhere(tmp_path / "a" / "deep", 1, 2.0, 7, hash_seed="1"),
              render_elsewhere(tmp_path / "b" / "deep", 1, 2.0, 7, hash_seed="2")]
    for other in others:
        assert other.wait() == 0, other.stdout.read()
    here = fingerprints(tmp_path / "here")
    assert len(here) == 12
    assert fingerprints(tmp_path / "a" / "deep") == here == fingerprints(tmp_path / "b" / "deep")


def test_a_song_does_not_depend_on_those_before_it():
    """symusic's player confuses notes of some instruments when it plays them one after another."""
    songs = [compose(genre, index, seconds=2.0) for genre in ("pop", "reggae", "rock") for index in range(3)]
    forward = {song.track_id: render_song(song) for song in songs}
    for song in reversed(songs):
        _player.cache_clear()
        np.testing.assert_array_equal(render_song(song), forward[song.track_id])


def test_instruments_are_in_tune():
    """Half of a bass line's energy or more lies near whole multiples of the written pitch."""
    pytest.importorskip("pretty_midi")
    import pretty_midi

    for name in sorted({bass for style in STYLES.values() for bass in style["bass"]}):
        for pitch in (36, 43):
            note = pd.DataFrame({"start_s": [0.0], "duration_s": [1.0], "pitch": [pitch]})
            played = _render_notes(note, pretty_midi.instrument_name_to_program(name), is_drum=False)[:SAMPLE_RATE]
            power = np.abs(np.fft.rfft(played * np.hanning(len(played)))) ** 2
            multiple = np.arange(len(power)) / (440 * 2 ** ((pitch - 69) / 12))
            near = np.abs(multiple - multiple.round()) < 0.06 * np.maximum(multiple, 1).clip(max=4)
            assert power[near].sum() > 0.5 * power.sum(), (name, pitch)


def test_a_larger_corpus_contains_the_smaller(tmp_path):
    small = render_minicorpus(tmp_path / "small", 1, seconds=1.5)
    large = render_minicorpus(tmp_path / "large", 3, seconds=1.5)
    wav = {name: mark for name, mark in fingerprints(tmp_path / "small").items() if name.endswith(".wav")}
    assert wav.items() <= fingerprints(tmp_path / "large").items()
    grown = render_minicorpus(tmp_path / "small", 3, seconds=1.5)
    assert fingerprints(tmp_path / "small") == fingerprints(tmp_path / "large")
    pd.testing.assert_frame_equal(grown.drop(columns="path"), large.drop(columns="path"))
    assert small.track_id.isin(large.track_id).all()


def test_asking_for_fewer_keeps_the_table_of_all(tmp_path):
    render_minicorpus(tmp_path, 2, seconds=1.0)
    assert len(render_minicorpus(tmp_path, 1, seconds=1.0)) == 10
    assert len(pd.read_csv(tmp_path / "tracks.csv")) == 20


def test_killed_and_continued(tmp_path):
    """A render killed at any moment leaves only whole files, and the next one finishes the same corpus."""
    whole = tmp_path / "whole"
    render_minicorpus(whole, 2, seconds=5.0)
    broken = tmp_path / "broken"
    for _ in range(2):
        other = render_elsewhere(broken, 2, 5.0, 0)
        seen = len(list(broken.rglob("[!.]*.wav")))
        deadline = time.monotonic() + 60
        while len(list(broken.rglob("[!.]*.wav"))) < seen + 3 and time.monotonic() < deadline and other.poll() is None:
            time.sleep(0.01)
        other.send_signal(signal.SIGKILL)
        other.wait()
        for path in broken.rglob("[!.]*.wav"):  # a draft is hidden
            assert soundfile.info(path).frames == round(5.0 * SAMPLE_RATE), path
    found = len(list(broken.rglob("[!.]*.wav")))
    assert 3 <= found < 20, f"the kill came too late to test anything: {found} tracks"
    render_minicorpus(broken, 2, seconds=5.0)
    assert corpus_files(broken) == fingerprints(whole)


def test_two_at_once(tmp_path):
    both = [render_elsewhere(tmp_path / "shared", 1, 2.0, 0) for _ in range(2)]
    for one in both:
        assert one.wait() == 0, one.stdout.read()
    render_minicorpus(tmp_path / "alone", 1, seconds=2.0)
    assert fingerprints(tmp_path / "shared") == fingerprints(tmp_path / "alone")


def test_a_folder_that_another_render_has_just_begun(tmp_path, monkeypatch):
    """The other one's note and first genre come while this one looks; or its hidden draft is all there is."""
    render_minicorpus(tmp_path / "other", 1, seconds=0.5)
    note, folder, looked = (tmp_path / "other" / "minicorpus.json").read_bytes(), tmp_path / "shared", Path.iterdir
    (folder / "blues").mkdir(parents=True)

    def looks_and_finds_it_written(path):
        if path == folder:
            (folder / "minicorpus.json").write_bytes(note)
        return looked(path)

    monkeypatch.setattr(Path, "iterdir", looks_and_finds_it_written)
    assert len(render_minicorpus(folder, 1, seconds=0.5)) == 10
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".0123456789abcdef.part.json").touch()
    assert len(render_minicorpus(tmp_path / "begun", 1, seconds=0.5)) == 10


def test_the_corpus_reads_as_one(tmp_path):
    """read_corpus finds the same tracks, genres and artists as the table says."""
    tracks = render_minicorpus(tmp_path, 2, seconds=1.0).set_index("track_id")
    read = read_corpus(tmp_path).set_index("track_id").loc[tracks.index]
    assert (read.problem == "").all()
    assert (read.genre == tracks.genre).all() and (read.artist == tracks.artist).all()
    np.testing.assert_allclose(read.duration_s, 1.0)
    info = soundfile.info(tracks.path.iloc[0])
    assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")


def test_a_seed_changes_the_artists_and_the_songs_each_by_itself():
    """Another seed: other instruments and sounds of an artist; and other notes for the same artist."""
    artists = {seed: [(song.programs, song.sound) for song in (compose(genre, 0, seed=seed) for genre in GENRES)]
               for seed in (0, 1)}
    assert sum(one != other for one, other in zip(artists[0], artists[1], strict=True)) >= len(GENRES) - 1
    rows = [compose("blues", index, seed=0) for index in (0, 5)]  # the same artist twice
    assert rows[0].artist == rows[1].artist and not rows[0].notes.equals(rows[1].notes)
    for genre in GENRES[:3]:
        one, other = (_draw_artist(genre, 3, seed) for seed in (0, 1))
        assert one["sound"] != other["sound"]
        with pytest.MonkeyPatch.context() as patch:  # the artist of seed 0, whatever the seed
            patch.setattr(song_module, "_draw_artist", lambda genre, number, seed: _draw_artist(genre, number, 0))
            songs = [compose(genre, 3, seed=seed).notes for seed in (0, 1)]
        assert not songs[0].equals(songs[1])


@pytest.mark.parametrize("genre", GENRES)
def test_songs_are_music(genre):
    """Sounding from end to end, not clipped, in the tempo range of the genre; drums where they belong."""
    for index in range(6):
        song = compose(genre, index, seconds=10.0, seed=3)
        waveform = render_song(song).astype(float)
        assert len(waveform) == 10 * SAMPLE_RATE
        loud = np.sqrt((waveform.reshape(10, -1) ** 2).mean(axis=1))
        assert loud.min() > 100, (song, loud)
        assert (np.abs(waveform) > 32000).mean() < 0.001
        low, high = STYLES[genre]["bpm"]
        assert low <= song.tempo_bpm <= high
        assert ("kick" in set(song.notes.part)) == (genre != "classical")
        assert song.notes.pitch.between(20, 100).all()


def test_artists_keep_their_sound():
    """Tracks of one artist share instruments and lie close in tempo; another artist differs in one of them."""
    songs = [compose("pop", index) for index in range(40)]
    assert [song.artist for song in songs[:6]] == [f"pop artist 0{n}" for n in (0, 1, 2, 3, 4, 0)]
    assert songs[20].artist == "pop artist 05"
    by_artist = {}
    for song in songs:
        by_artist.setdefault(song.artist, []).append(song)
    assert {len(own) for own in by_artist.values()} == {4}
    for own in by_artist.values():
        assert len({str(song.programs) for song in own}) == 1
        tempi = [song.tempo_bpm for song in own]
        assert max(tempi) / min(tempi) < 1.14
    assert len({str(own[0].programs) for own in by_artist.values()}) > 5


@pytest.mark.parametrize("seed", [1])
def test_neither_trivial_nor_hopeless(tmp_path, seed):
    """Logistic regression on mean and spread of mel bands, artists apart: between 40% and 85%."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from genre_study.mel import log_mel

    tracks = render_minicorpus(tmp_path, 10, seconds=5.0, seed=seed)
    bands = [log_mel(soundfile.read(path, dtype="float32")[0]) for path in tracks.path]
    features = np.array([np.concatenate([band.mean(axis=1), band.std(axis=1)]) for band in bands])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    guess = cross_val_predict(model, features, tracks.genre, groups=tracks.artist, cv=GroupKFold(5))
    assert 0.40 < (guess == tracks.genre).mean() < 0.85


@pytest.mark.parametrize(("wrong", "says"), [
    (dict(tracks_per_genre=0), "tracks_per_genre must be from 1"), (dict(tracks_per_genre=2.5), "whole number"),
    (dict(tracks_per_genre=True), "whole number"), (dict(seconds=-1), "seconds must be a number above 0"),
    (dict(seconds=float("nan")), "seconds must be a number above 0"), (dict(seconds="30"), "seconds must be a number"),
    (dict(seed=-1), "seed must be from 0"), (dict(seed=None), "seed must be a whole number")])
def test_bad_arguments(tmp_path, wrong, says):
    with pytest.raises((TypeError, ValueError), match=says):
        render_minicorpus(tmp_path / "new", **{"tracks_per_genre": 1, **wrong})
    assert not (tmp_path / "new").exists()


def test_a_full_disk_ends_as_an_error_and_the_next_call_completes(tmp_path):
    """A write refused anywhere in a file ends as an error, whichever library writes."""
    resource = pytest.importorskip("resource")
    render_minicorpus(tmp_path / "whole", 1, seconds=0.5)
    size = (tmp_path / "whole" / "blues" / "blues.00000.wav").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 43, 44, 1000, size - 1):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(OSError):
                render_minicorpus(tmp_path / "full", 1, seconds=0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(render_minicorpus(tmp_path / "full", 1, seconds=0.5)) == 10
    assert fingerprints(tmp_path / "full") == fingerprints(tmp_path / "whole")


@pytest.mark.parametrize("change", ["os.replace", "os.fsync", "os.mkdir", "pathlib.Path.write_bytes",
                                    "pathlib.Path.write_text"])
def test_a_refused_change_at_any_step(tmp_path, monkeypatch, change):
    """Each change refused in turn, once: an error, or a corpus equal to its seed; then the next call completes it."""
    songs, waveforms = lru_cache(compose), {}  # each song is composed and rendered once
    monkeypatch.setattr(minicorpus, "compose", songs)

    def rendered(song):
        if song.track_id not in waveforms:
            waveforms[song.track_id] = render_song(song)
        return waveforms[song.track_id]

    monkeypatch.setattr(minicorpus, "render_song", rendered)
    render_minicorpus(tmp_path / "whole", 1, seconds=0.3)
    whole, owner, name = fingerprints(tmp_path / "whole"), *change.rpartition(".")[::2]
    owner = {"os": os, "pathlib.Path": Path}[owner]
    real, number, refused = getattr(owner, name), 0, True
    while refused:
        calls = 0

        def refuse(*args, number=number, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number + 1:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        folder = tmp_path / f"{name}{number}"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            try:
                render_minicorpus(folder, 1, seconds=0.3)
                assert fingerprints(folder) == whole
            except OSError:
                pass
        refused = calls > number
        render_minicorpus(folder, 1, seconds=0.3)
        assert corpus_files(folder) == whole
        number += 1
    assert number > 5


@pytest.mark.parametrize("spoil", [
    lambda content: bytes(len(content)), lambda content: content[:-1], lambda content: content + b"\0",
    lambda content: content[:44] + bytes(len(content) - 44), lambda content: content[:40] + bytes(4) + content[44:]])
def test_a_file_that_is_not_the_seeds_is_never_taken_for_it(tmp_path, spoil):
    """A file of the right size with other content, or with a broken header, is rendered again."""
    tracks = render_minicorpus(tmp_path, 1, seconds=0.3)
    before = fingerprints(tmp_path)
    for path in map(Path, tracks.path[:3]):
        path.write_bytes(spoil(path.read_bytes()))
    render_minicorpus(tmp_path, 1, seconds=0.3)
    assert fingerprints(tmp_path) == before


def test_damaged_note_is_named(tmp_path):
    (tmp_path / "minicorpus.json").write_text("{")
    with pytest.raises(ValueError, match=r"minicorpus\.json is not readable"):
        render_minicorpus(tmp_path, 1)


def test_import_is_light():
    heavy = {"keras", "librosa", "matplotlib", "scipy", "sklearn", "symusic", "pretty_midi", "soundfile"}
    code = f"import sys, genre_study.synth.minicorpus; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
