"""Audio files of every kind: whole, joined, cut off, broken, hostile; with ffmpeg and without."""
import io
import os
import pickle
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genre_study.core.audio import AudioError, CutOffError, audio_blocks, load_audio, read_header
from genre_study.mel import log_mel, mel_blocks, power_to_db

librosa = pytest.importorskip("librosa")


FORMATS = [("wav", "PCM_U8", 2e-2), ("wav", "PCM_16", 1e-4), ("wav", "PCM_24", 1e-6), ("wav", "FLOAT", 1e-7),
           ("wav", "DOUBLE", 1e-7), ("wav", "ULAW", 3e-2), ("au", "PCM_16", 1e-4), ("flac", "PCM_16", 1e-4),
           ("aiff", "PCM_16", 1e-4), ("ogg", "VORBIS", None), ("mp3", "MPEG_LAYER_III", None)]


def tune(sample_rate, seconds=2.0):
    time_s = np.arange(int(seconds * sample_rate)) / sample_rate
    return 0.4 * np.sin(2 * np.pi * 440 * time_s) + 0.2 * np.sin(2 * np.pi * 1000 * time_s)


@pytest.mark.parametrize(("suffix", "subtype", "error"), FORMATS)
def test_formats(tmp_path, suffix, subtype, error):
    waveform, file = tune(22050), tmp_path / f"tune.{suffix}"
    soundfile.write(file, waveform, 22050, subtype=subtype)
    loaded = load_audio(file)
    assert loaded.dtype == np.float32 and loaded.ndim == 1
    if error is not None:
        assert np.abs(loaded - waveform).max() < error
    else:  # lossy, and mp3 has a delay: the same pitch, about the same length
        assert abs(len(loaded) - len(waveform)) < 3000
        assert np.argmax(log_mel(loaded).mean(axis=1)) == np.argmax(log_mel(waveform).mean(axis=1))
    with open(file, "rb") as handle:
        assert np.array_equal(load_audio(handle), loaded)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels_as_librosa_loads_them(tmp_path, sample_rate, channels):
    file = tmp_path / "tune.wav"
    weights = np.linspace(1, 0.3, channels)
    soundfile.write(file, tune(sample_rate)[:, None] * weights, sample_rate)
    ours, (theirs, _) = load_audio(file), librosa.load(file, sr=22050)
    assert len(ours) == len(theirs)
    assert np.abs(ours - theirs).max() < 1e-5


def test_blocks_come_one_at_a_time_and_close_their_file(tmp_path):
    file = tmp_path / "long.wav"
    soundfile.write(file, tune(22050, 60), 22050)
    before = len(os.listdir("/proc/self/fd"))
    blocks = audio_blocks(file)
    assert len(next(blocks)) < 22050 * 10
    blocks.close()
    for bad in ("text.wav", "gone.wav"):
        (tmp_path / "text.wav").write_text("not audio")
        with pytest.raises(AudioError, match=bad):
            load_audio(tmp_path / bad)
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_that_are_not_audio_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "half.wav").write_bytes(b"RIFF\x00\x00")
    paths = [tmp_path / f"{name}.wav" for name in ("pipe", "folder", "circle", "empty", "half", "gone")]
    results = []

    def load_all():
        for path in [*paths, "/dev/zero", "/dev/full", "a\0b.wav", ""]:
            try:
                load_audio(path)
                results.append((path, "loaded"))
            except AudioError as error:
                results.append((path, str(error)))

    thread = threading.Thread(target=load_all, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), f"hangs after {results}"
    assert len(results) == 10 and all(str(path) in message for path, message in results), results


def test_unreadable_permissions(tmp_path):
    file = tmp_path / "secret.wav"
    soundfile.write(file, tune(22050), 22050)
    file.chmod(0)
    is_root = os.geteuid() == 0  # root may read everything, so it becomes nobody for a moment
    os.seteuid(65534) if is_root else None
    try:
        with pytest.raises(AudioError, match="Permission denied"):
            load_audio(file)
    finally:
        os.seteuid(0) if is_root else None


def test_long_files_are_bounded(tmp_path):
    file = tmp_path / "long.flac"
    soundfile.write(file, np.zeros(22050 * 100), 22050)
    with pytest.raises(AudioError, match="longer than 60 s"):
        load_audio(file, max_duration_s=60)
    assert len(load_audio(file, max_duration_s=101)) == 22050 * 100


def test_decoding_in_pieces_is_decoding_at_once(tmp_path):
    file = tmp_path / "tune.wav"
    soundfile.write(file, tune(44100, 8), 44100)
    at_once = power_to_db(np.hstack(list(mel_blocks(audio_blocks(file)))))
    assert np.array_equal(at_once, log_mel(load_audio(file)))


def test_audio_error_crosses_processes():
    error = pickle.loads(pickle.dumps(AudioError("x.wav", "is empty", "Replace it")))
    assert (error.path, error.problem, error.advice) == ("x.wav", "is empty", "Replace it")
    assert str(error) == "x.wav: is empty. Replace it"


def test_a_cut_is_an_error_that_crosses_processes():
    error = pickle.loads(pickle.dumps(CutOffError("x.wav", "is cut off", "Get the whole file")))
    assert isinstance(error, CutOffError) and error.problem == "is cut off"


# ---- several recordings in one file, and less than one

def written(samples, suffix, sample_rate):
    """The bytes of a file."""
    formats = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
               "mp3": ("MP3", "MPEG_LAYER_III"), "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16")}
    kind, subtype = formats[suffix]
    memory = io.BytesIO()
    soundfile.write(memory, samples, sample_rate, format=kind, subtype=subtype)
    return memory.getvalue()


def tone(hz, seconds, sample_rate, channels=1):
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * sample_rate)) / sample_rate)
    return np.repeat(wave[:, None], channels, axis=1)


def pitch_hz(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * 22050 / len(waveform)


@settings(max_examples=40, deadline=None)
@given(suffix=st.sampled_from(["wav", "aiff", "au", "flac", "ogg", "opus", "mp3"]), data=st.data(),
       lengths=st.lists(st.floats(0.7, 3), min_size=2, max_size=4),
       by=st.sampled_from(["path", "bytes", "file", "stream"]))
def test_recordings_that_were_joined_are_read_whole(tmp_path_factory, suffix, data, lengths, by):
    """Each part is there, at its place and in its pitch, whatever its rate and channels are."""
    rates = [48000] if suffix == "opus" else [22050, 44100]
    parts = [(440 * 2**number, length, data.draw(st.sampled_from(rates)), data.draw(st.integers(1, 2)))
             for number, length in enumerate(lengths)]
    content = b"".join(written(tone(*part), suffix, part[2]) for part in parts)
    path = tmp_path_factory.mktemp("joined") / f"joined.{suffix}"
    path.write_bytes(content)
    file = {"path": path, "bytes": content, "file": io.BytesIO(content), "stream": io.BytesIO(content)}[by]
    if by == "stream":
        file.seekable = lambda: False
    waveform = load_audio(file)
    assert abs(len(waveform) / 22050 - sum(lengths)) < 0.1 * len(lengths)
    assert abs(read_header(path).duration_s - len(waveform) / 22050) < 0.01
    begin = 0.0
    for hz, length, _, _ in parts:
        middle = waveform[int((begin + 0.2) * 22050):int((begin + length - 0.2) * 22050)]
        assert abs(pitch_hz(middle) - hz) < 10
        begin += length


@settings(max_examples=30, deadline=None)
@given(suffix=st.sampled_from(["wav", "aiff", "mp3"]), share=st.floats(0.2, 0.8), seconds=st.floats(2, 5))
def test_a_file_that_was_cut_off_is_named_after_all_that_is_there(tmp_path_factory, suffix, share, seconds):
    whole = written(tone(440, seconds, 22050), suffix, 22050)
    path = tmp_path_factory.mktemp("cut") / f"cut.{suffix}"
    path.write_bytes(whole[:int(share * len(whole))])
    n_samples = 0
    if suffix == "mp3" and share * seconds < 1 and shutil.which("ffmpeg") is None:
        return  # libsndfile alone does not open so short an mp3
    with pytest.raises(CutOffError, match=r"is cut off: .* s promised, .* s are there") as caught:
        for block in audio_blocks(path):
            n_samples += len(block)
    assert abs(float(caught.value.problem.split()[3]) - seconds) < 0.1
    assert abs(n_samples / 22050 - share * seconds) < (0.6 if suffix == "mp3" else 0.1)  # an mp3 begins with its table
    assert read_header(path).promised_s > seconds - 0.1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seconds=st.floats(1, 8), mode=st.sampled_from(["VARIABLE", "CONSTANT"]), quiet=st.floats(0, 1))
def test_an_mp3_without_its_table_of_contents_is_read_to_its_end(tmp_path, seconds, mode, quiet):
    """Loud noise after silence, or before it: a length guessed from the first frames is far off."""
    noise = np.random.default_rng(0).normal(0, 0.2, int(seconds * 22050))
    noise[:int(quiet * len(noise))] *= 1e-3
    memory = io.BytesIO()
    soundfile.write(memory, noise, 22050, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode,
                    compression_level=0.3)
    content = memory.getvalue()
    for table in (b"Xing", b"Info", b"VBRI"):
        content = content.replace(table, bytes(4), 1)
    (tmp_path / "plain.mp3").write_bytes(content)
    assert abs(len(load_audio(tmp_path / "plain.mp3")) / 22050 - seconds) < 0.2
    assert abs(read_header(tmp_path / "plain.mp3").duration_s - seconds) < 0.2


@pytest.mark.parametrize("peak", [150.0, 3000.0, 32767.0])
def test_samples_in_another_scale_are_refused(tmp_path, peak):
    """Floats of a file that was written from 16-bit values without a division; loud ones of a mix are music."""
    noise = np.random.default_rng(0).uniform(-1, 1, 22050)
    soundfile.write(tmp_path / "loud.wav", 12 * noise, 22050, subtype="FLOAT")
    assert np.abs(load_audio(tmp_path / "loud.wav")).max() > 10
    soundfile.write(tmp_path / "scaled.wav", np.r_[noise, peak * noise], 22050, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"expected -1 to 1\. Divide samples of 16 bits by 32768"):
        load_audio(tmp_path / "scaled.wav")


def test_whole_files_are_neither_joined_nor_cut(gtzan):
    """No real track is taken for several, and none for a part."""
    files = sorted((gtzan / "mini" / "genres").rglob("*.flac"))[::9]
    for file in files:
        header = read_header(file)
        assert abs(header.duration_s - len(soundfile.read(file)[0]) / header.sample_rate) < 1e-6
        assert header.promised_s == header.duration_s


# ---- ffmpeg

@pytest.fixture
def ffmpeg():
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")

    def convert(*arguments):
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *map(str, arguments)], check=True)

    return convert


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "wma", "caf", "mka", "webm", "aac", "wv"])
@pytest.mark.parametrize("by", ["path", "bytes"])
def test_joined_recordings_that_only_ffmpeg_reads(tmp_path, ffmpeg, suffix, by):
    parts, codec = [(440, 2.0), (880, 1.5), (1760, 2.5)], ["-c:a", "alac"] if suffix == "caf" else []
    content = b""
    for number, (hz, seconds) in enumerate(parts):
        soundfile.write(tmp_path / "part.wav", tone(hz, seconds, 44100, 1 + number % 2), 44100)
        ffmpeg("-i", tmp_path / "part.wav", *codec, tmp_path / f"{number}.{suffix}")
        content += (tmp_path / f"{number}.{suffix}").read_bytes()
    (tmp_path / f"joined.{suffix}").write_bytes(content)
    waveform = load_audio(content if by == "bytes" else tmp_path / f"joined.{suffix}")
    assert abs(len(waveform) / 22050 - 6) < 0.3
    assert abs(read_header(tmp_path / f"joined.{suffix}").duration_s - len(waveform) / 22050) < 0.3
    for hz, middle_s in ((440, 1), (880, 2.75), (1760, 4.75)):
        assert abs(pitch_hz(waveform[int((middle_s - 0.4) * 22050) : int((middle_s + 0.4) * 22050)]) - hz) < 10


@pytest.mark.parametrize("name", ["a.m4a -c:a aac", "a.webm -c:a libopus", "a.mka -c:a flac", "a.ogg -c:a flac",
                                  "a.wma -c:a wmav2", "a.wv -c:a wavpack", "a.caf -c:a alac", "a.mp4 -c:a aac",
                                  "noname -c:a aac -f adts"])
def test_what_libsndfile_does_not_know_is_read_by_ffmpeg(tmp_path, ffmpeg, name):
    soundfile.write(tmp_path / "tune.wav", np.hstack([tone(440, 3, 44100), tone(660, 3, 44100)]), 44100)
    name, *options = name.split()
    ffmpeg("-i", tmp_path / "tune.wav", *options, tmp_path / name)
    waveform = load_audio(tmp_path / name)
    assert abs(len(waveform) / 22050 - 3) < 0.15
    assert min(abs(pitch_hz(waveform) - 440), abs(pitch_hz(waveform) - 660)) < 5
    assert abs(read_header(tmp_path / name).duration_s - 3) < 0.15
    content = (tmp_path / name).read_bytes()
    assert np.array_equal(load_audio(io.BytesIO(content)), waveform)
    seen = []
    for _ in audio_blocks(content, mix=lambda samples: seen.append(samples.shape[1]) or samples.mean(axis=1)):
        pass
    assert set(seen) == {2}, "the channels come as they are"


@pytest.mark.parametrize("before", [bytes(100_000), b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + bytes(70_000)])
def test_an_mp3_behind_padding(tmp_path, ffmpeg, before):
    (tmp_path / "padded.mp3").write_bytes(before + written(tone(440, 3, 22050), "mp3", 22050))
    waveform = load_audio(tmp_path / "padded.mp3")
    assert abs(len(waveform) / 22050 - 3) < 0.2 and abs(pitch_hz(waveform) - 440) < 5


def test_without_ffmpeg_the_error_asks_for_it(tmp_path, ffmpeg, monkeypatch):
    soundfile.write(tmp_path / "tune.wav", tone(440, 1, 22050), 22050)
    ffmpeg("-i", tmp_path / "tune.wav", tmp_path / "tune.m4a")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"tune.m4a: cannot be decoded: .*Install ffmpeg"):
        load_audio(tmp_path / "tune.m4a")


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{other}\n", "ffconcat version 1.0\nfile {other}\n",
                                  "[playlist]\nFile1={other}\n",
                                  "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 9 RTP/AVP 0\n"])
@pytest.mark.parametrize("suffix", ["m3u8", "mp3", "txt"])
def test_a_playlist_never_opens_another_file(tmp_path, ffmpeg, text, suffix):
    soundfile.write(tmp_path / "other.wav", tone(440, 1, 22050), 22050)
    file = tmp_path / f"list.{suffix}"
    file.write_text(text.format(other=tmp_path / "other.wav"))
    with pytest.raises(AudioError):
        load_audio(file)


@pytest.mark.parametrize("begin", ["nothing", "a second of music"])
def test_gigabytes_of_nothing_are_given_up(tmp_path, ffmpeg, begin, monkeypatch):
    monkeypatch.setattr("genre_study.core.audio._FFMPEG_PATIENCE_S", 2.0)
    file = tmp_path / "sparse.mkv"
    if begin == "nothing":
        file.touch()
    else:
        soundfile.write(tmp_path / "tune.wav", tone(440, 1, 22050), 22050)
        ffmpeg("-i", tmp_path / "tune.wav", file)
    os.truncate(file, 4 << 30)
    start = time.perf_counter()
    try:
        assert len(load_audio(file)) < 30_000
    except AudioError:
        pass
    assert time.perf_counter() - start < 40
