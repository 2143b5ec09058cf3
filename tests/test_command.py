"""The command line: output that pipes, exit codes, and the script that pip installs."""
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import soundfile

from genre_study.command import main
from genre_study.predict.bundle import Bundle, save_bundle
from genre_study.synth.song import compose
from genre_study.synth.sound import SAMPLE_RATE, render_song


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a bundle and a song."""
    from genre_study.model import build_network

    folder = tmp_path_factory.mktemp("command")
    network = build_network("quick_cnn", (128, 130, 1), 3, seed=1, filters=8)
    save_bundle(folder / "bundle", Bundle(network, ("blues", "jazz", "rock")))
    soundfile.write(folder / "song.wav", render_song(compose("country", 3, seconds=4.0)), SAMPLE_RATE)
    return folder


def test_json_lines_and_exit_codes(place, monkeypatch, capsys):
    """JSON lines on standard output, complaints on standard error."""
    monkeypatch.chdir(place)
    assert main(["predict", "song.wav", "missing.wav", "--model", "bundle", "--json", "--timeline", "x.png"]) == 1
    assert "--timeline draws one song" in capsys.readouterr().err
    assert main(["predict", "song.wav", "missing.wav", "--model", "bundle", "--json"]) == 1
    out, err = capsys.readouterr()
    first, second = [json.loads(line) for line in out.splitlines()]
    assert list(first) == list(second), "the same keys for a file that can't be read"
    assert "missing.wav" in err and abs(sum(first["vector"].values()) - 1) < 1e-6
    assert first["problem"] == "" and "opened" in second["problem"]
    with pytest.raises(SystemExit) as end:
        main(["predict"])
    assert end.value.code == 2


def test_standard_input_and_picture(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((place / "song.wav").read_bytes())))
    assert main(["predict", "-", "--model", "bundle", "--timeline", "song.png"]) == 0
    assert capsys.readouterr().out.startswith("-: ") and (place / "song.png").stat().st_size > 10_000


SCRIPT = "import sys; from genre_study.command import main; sys.exit(main())"
NAMES = ["mod\udce0.wav", "音楽.wav", "a\nb.wav", "emoji 🎷.wav", "\udcff\udcfe.wav"]


@pytest.mark.parametrize(("encoding", "options"),
                         [("utf-8", []), ("cp1252", []), ("ascii", ["--json"]), ("cp1252", ["--json"])])
def test_no_name_ends_a_batch(place, tmp_path, encoding, options):
    """Names that are not UTF-8, or that the console can't write, are spelled out; later files are predicted."""
    for name in [*NAMES, "last.wav"]:
        (tmp_path / name).write_bytes((place / "song.wav").read_bytes())
    done = subprocess.run([sys.executable, "-c", SCRIPT, "predict", "--model", place / "bundle", *options, *NAMES,
                           "gone \udce0", "last.wav"], cwd=tmp_path, capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": encoding})
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 1 and "Traceback" not in err and "gone \\xe0: cannot be opened" in err
    assert out.count("last.wav") == (2 if options else 1) and "mod\\xe0.wav" in out.replace("\\\\", "\\")
    if options:
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["problem"] == "" for row in rows] == [True] * len(NAMES) + [False, True]
        assert len({tuple(row) for row in rows}) == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_folder_becomes_a_table_that_is_continued(place, tmp_path, monkeypatch, capsys, suffix):
    from genre_study.predict import folder as rooms

    (tmp_path / "music").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "music" / name).write_bytes((place / "song.wav").read_bytes())
    (tmp_path / "music" / "broken.mp3").write_bytes(b"nothing")
    arguments = ["predict", str(tmp_path / "music"), "--out", str(tmp_path / f"tags{suffix}"), "--model",
                 str(place / "bundle")]
    assert main(arguments) == 1 and "3 files in" in capsys.readouterr().err
    first = rooms._read_table(tmp_path / f"tags{suffix}")
    assert list(first["path"]) == ["a.wav", "b.wav", "broken.mp3"]
    assert list(first["problem"] == "") == [True, True, False]
    monkeypatch.setattr(rooms, "predict_song", None)  # nothing is predicted again
    assert main(arguments) == 1
    assert rooms._read_table(tmp_path / f"tags{suffix}").equals(first)
    for wrong in (["--json"], ["more"], ["--timeline", "x.png"]):
        assert main(["predict", *wrong, *arguments[1:]]) == 1 and "--out takes one folder" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "music")]) == 1 and "add --out" in capsys.readouterr().err


def test_a_table_keeps_what_others_wrote_into_it(place, tmp_path, monkeypatch):
    """Added columns stay, a table of something else is refused, and what waited for ffmpeg is tried again."""
    from genre_study.predict import folder as rooms

    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.wav").write_bytes((place / "song.wav").read_bytes())
    arguments, out = ["predict", str(tmp_path / "music"), "--model", str(place / "bundle"), "--out"], tmp_path / "t.csv"
    out.write_text("path,my_notes\na.wav,dear\n")
    assert main([*arguments, str(out)]) == 1 and out.read_text() == "path,my_notes\na.wav,dear\n"
    out.unlink()
    assert main([*arguments, str(out)]) == 0
    table = pd.read_csv(out, dtype=object).assign(checked="by me", stars=5)
    table.loc[0, ["problem", "top"]] = ["cannot be decoded. Install ffmpeg, which reads more formats", ""]
    table.to_csv(out, index=False)
    monkeypatch.setattr(rooms.shutil, "which", lambda name: None)
    assert main([*arguments, str(out)]) == 1  # nothing has changed
    monkeypatch.setattr(rooms.shutil, "which", lambda name: "/usr/bin/ffmpeg")
    assert main([*arguments, str(out)]) == 0
    row = pd.read_csv(out).iloc[0]
    assert row["top"] and (row["checked"], row["stars"]) == ("by me", 5)


def test_a_scheduler_ends_a_folder_with_its_table_written(place, tmp_path):
    """SIGTERM, as Slurm and containers send it, is an interruption like any other."""
    (tmp_path / "music").mkdir()
    for number in range(45):
        (tmp_path / "music" / f"{number:02}.wav").write_bytes((place / "song.wav").read_bytes() + bytes(2 * number))
    out = tmp_path / "tags.csv"
    code = """
import os, signal, sys
from genre_study.predict import folder
from genre_study.command import main
answer, seen = folder._answer, []
def slow(path, bundle):
    seen.append(path)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    return answer(path, bundle)
folder._answer = slow
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run([sys.executable, "-c", code, "predict", str(tmp_path / "music"), "--model",
                           str(place / "bundle"), "--out", str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and len(pd.read_csv(out)) == 3, done.stderr[-1000:]


def test_one_run_is_printed_and_not_overwritten(root, tmp_path, capsys):
    run = root / "reports" / "mel999-filtered-fourteen"
    assert main(["compare", str(run), "--latex"]) == 0
    assert r"songs: accuracy & 0.503" in capsys.readouterr().out
    (tmp_path / "metrics.json").write_text("{}")
    assert main(["reproduce", "--out", str(tmp_path)]) == 1 and "holds a finished run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_texts_stay_texts(monkeypatch):
    """A folder may be called 2024, or yes; other parameters are read as they were typed."""
    from genre_study.command import _value

    assert [_value(text, "corpus") for text in ("2024", "yes", "[live]", "a: b")] == ["2024", "yes", "[live]", "a: b"]
    typed = ("epochs", "3"), ("network_options", '{"dropout": 0.5}'), ("overlap", "0.25")
    assert [_value(text, name) for name, text in typed] == [3, {"dropout": 0.5}, 0.25]


def test_help_speaks_of_folders(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(word in said for word in ("--out", ".csv, .parquet or .jsonl", "folder"))


def test_serve_without_gradio_says_what_to_install(place, monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert main(["serve", "--model", str(place / "bundle")]) == 1
    assert 'pip install "genre_study[app]"' in capsys.readouterr().err


@pytest.mark.torture
def test_the_installed_script(place, root, tmp_path):
    """A wheel is built and installed in a fresh environment; its script runs, in a pipe too."""
    import shutil
    import site

    source = tmp_path / "source"
    wanted = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    for name in wanted.stdout.splitlines():
        if name.startswith("genre_study/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, source / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path,
                    source], check=True)
    wheel, = tmp_path.glob("genre_study-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "python", "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    packages, = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    others = [path for path in site.getsitepackages() if os.path.isdir(path)]  # numpy, keras, ...: not this package
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), *others])}

    def run(command, **options):
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, **options)

    where = run([binaries / "python", "-c", "import genre_study; print(genre_study.__file__)"]).stdout
    assert where.startswith(str(packages)), where
    done = run([binaries / "genre-study", "--help"])
    assert done.returncode == 0 and all(name in done.stdout for name in ("predict", "serve", "render", "audit"))
    pipe = f"'{binaries}/genre-study' predict song.wav --model bundle --json | python3 -m json.tool"
    done = run(["bash", "-o", "pipefail", "-c", pipe])
    assert done.returncode == 0 and sorted(json.loads(done.stdout)["vector"]) == ["blues", "jazz", "rock"], done.stderr
    done = run([binaries / "genre-study", "predict", "missing.wav", "--model", "bundle"])
    assert done.returncode == 1 and done.stdout == ""
    assert "missing.wav" in done.stderr and "Traceback" not in done.stderr
    assert run([binaries / "genre-study", "predict"]).returncode == 2


@pytest.mark.parametrize("wrong, says", [
    (["--port", "-5"], "port is -5; expected a whole number"), (["--port", "99999999"], "port is 99999999; expected"),
    (["--max-mb", "-3"], "max_mb is -3; expected a number above 0"),
    (["--max-minutes", "0"], "max_minutes is 0; expected")])
def test_serve_refuses_what_would_admit_nothing(wrong, says, capsys):
    assert main(["serve", *wrong]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"genre-study: {says}") and error.count("\n") == 1


def typed(*arguments, cwd):
    """What `python -m genre_study` does with these arguments in a folder."""
    return subprocess.run([sys.executable, "-m", "genre_study", *arguments], cwd=cwd, capture_output=True, text=True,
                          check=False)


def test_a_wrong_study_is_told_in_a_line(tmp_path):
    wrong = typed("reproduce", "-p", "epoch", "1", "--out", "wrong", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert "epoch" in wrong.stderr.splitlines()[-1] and wrong.stderr.splitlines()[-1].startswith("genre-study: ")
    assert typed("grid", "no-such", cwd=tmp_path).returncode == 1
