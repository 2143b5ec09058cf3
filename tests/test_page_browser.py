"""The page as people meet it: started by its command, used in headless Chromium, ended by a signal."""
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from chromium import chromium, needs_chromium

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install selenium)")
pytest.importorskip("gradio", reason="gradio is not installed (pip install 'genre_study[app]')")
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Three tracks a genre of the synthetic corpus, and a network, saved, that was trained on them."""
    import soundfile

    from genre_study.chunk import ChunkSpec, chunk_table
    from genre_study.corpus import read_corpus
    from genre_study.model import build_network
    from genre_study.predict.bundle import Bundle, save_bundle
    from genre_study.store import build_store
    from genre_study.synth.song import compose
    from genre_study.synth.sound import SAMPLE_RATE, render_song
    from genre_study.train import TrainSpec, train

    folder, genres = tmp_path_factory.mktemp("page"), ["classical", "hiphop", "metal"]
    for genre in genres:
        (folder / "corpus" / genre).mkdir(parents=True)
        for number in range(3):
            sound = render_song(compose(genre, number, seconds=8.0))
            soundfile.write(folder / "corpus" / genre / f"{genre}.{number:05d}.wav", sound, SAMPLE_RATE)
        shutil.copy(folder / "corpus" / genre / f"{genre}.00000.wav", folder / f"{genre}.wav")
    store = build_store(read_corpus(folder / "corpus"), folder / "store", workers=1, progress=False)
    chunks = chunk_table(store.tracks.assign(split="train"), ChunkSpec(), store.frames_per_second)
    network = build_network("quick_cnn", (128, 130, 1), 3, seed=0, filters=16)
    train(network, store, chunks, TrainSpec(epochs=20, batch_size=16, learning_rate=3e-3), progress=False)
    save_bundle(folder / "bundle", Bundle(network, genres, trained_on="nine synthetic tracks"))
    (folder / "letter.wav").write_text("Dear listener, this is not music.")
    soundfile.write(folder / "silence.wav", [0.0] * 8 * SAMPLE_RATE, SAMPLE_RATE)
    soundfile.write(folder / "long.wav", render_song(compose("metal", 0, seconds=15.0)), SAMPLE_RATE)
    return folder


@pytest.fixture(scope="module")
def server(songs):
    """`genre-study serve` as a process: its address, the folder where its uploads go, the process."""
    place = songs / "tmp"
    place.mkdir()
    code = "import sys; from genre_study.command import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, "serve", "--model", songs / "bundle", "--port", "0",
                                "--max-mb", "2", "--max-minutes", "0.2"],
                               env={**os.environ, "TMPDIR": str(place)}, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().split(" ")[0]
    assert url.startswith("http://127.0.0.1:"), url
    yield url, place, process
    if process.poll() is None:
        process.kill()


@pytest.fixture
def browser(songs):
    """Chromium without a window. It reaches this machine only, and has a microphone that hears a song."""
    with chromium("--window-size=1280,1400", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                  "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                  f"--use-file-for-fake-audio-capture={songs / 'metal.wav'}") as driver:
        yield driver


def until(browser, what, timeout_s=120):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(browser, timeout_s, ignored_exceptions=[StaleElementReferenceException]).until(what)


def text(browser, css):
    return "\n".join(element.text for element in browser.find_elements("css selector", css))


def upload(browser, path):
    field = until(browser, lambda b: b.find_elements("css selector", "#song input[type=file]"))[0]
    field.send_keys(str(path))


def clear(browser):
    button = until(browser, lambda b: b.find_elements("css selector", "#song button[aria-label='Clear'],"
                                                      "#song button[title='Clear']"))[0]
    browser.execute_script("arguments[0].click()", button)


def uploads(place):
    return [path for path in place.glob("genre_study_*/**/*") if path.is_file()]


def wait_for(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def test_a_song_of_the_minicorpus_shows_its_genre(songs, server, browser):
    url, place, _ = server
    browser.get(url)
    for genre in ("classical", "hiphop"):
        upload(browser, songs / f"{genre}.wav")
        until(browser, lambda b: text(b, "#words h2") == genre)  # noqa: B023
        assert f"{genre}.wav" in text(browser, "#words") and "nine synthetic tracks" in text(browser, "#words")
        assert until(browser, lambda b: genre in text(b, "#vector") and "%" in text(b, "#vector"))  # noqa: B023
        image = until(browser, lambda b: b.find_elements("css selector", "#timeline img"))[0]
        until(browser, lambda b: b.execute_script("return arguments[0].naturalWidth", image) > 500)  # noqa: B023
        assert f"Spectrogram of {genre}.wav" in image.get_attribute("alt")
        until(browser, lambda b: "0:00" in text(b, "#heard") and genre in text(b, "#heard"))  # noqa: B023
        assert [path.name for path in uploads(place)] == [f"{genre}.wav"], "one upload, and none of the songs before it"
        if genre == "classical":
            browser.save_screenshot(songs / "page.png")
        clear(browser)
        until(browser, lambda b: text(b, "#words") == "")
        assert wait_for(lambda: not uploads(place)), "what is cleared is deleted"

    upload(browser, songs / "silence.wav")
    until(browser, lambda b: text(b, "#words h2") == "no clear genre")
    assert "silent" in text(browser, "#words")
    clear(browser)
    until(browser, lambda b: text(b, "#words") == "")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors
    upload(browser, songs / "letter.wav")
    until(browser, lambda b: "can't be read" in text(b, "#words [role=alert]"))
    assert "cannot be decoded" in text(browser, "#words") and str(place) not in text(browser, "#words")
    assert wait_for(lambda: [path.name for path in uploads(place)] in ([], ["letter.wav"]))

    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    elsewhere = [name for name in loaded if not name.startswith((url, "blob:", "data:"))]
    assert elsewhere == [], "nothing from other machines"
    browser.get("about:blank")
    assert wait_for(lambda: not uploads(place)), "the visitor left: the upload is deleted"


@pytest.mark.parametrize("look", ["light", "dark"])
def test_it_fits_a_phone(songs, server, browser, look):
    """At 390 px the picture is one drawn for a phone, the table is whole, and nothing must be scrolled sideways."""
    url, _, _ = server
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": look}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    browser.get(url)
    upload(browser, songs / "long.wav")
    until(browser, lambda b: text(b, "#words h2"))
    assert "only the first 12 s were heard" in text(browser, "#words"), "3 s over the limit: cut, with a word"
    assert "--max-minutes" in text(browser, "body") and "2 MB" in text(browser, "body"), "the limits have their names"
    image = until(browser, lambda b: b.find_elements("css selector", "#timeline img"))[0]
    until(browser, lambda b: b.execute_script("return arguments[0].naturalHeight", image) > 0)
    wide, high, shown = browser.execute_script(
        "const i = arguments[0]; return [i.naturalWidth, i.naturalHeight, i.getBoundingClientRect().width]", image)
    assert high > wide >= 2 * shown * 0.95 and 300 < shown < 390, "upright, and sharp at two pixels a point"
    page, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert page <= window
    right = browser.execute_script(
        "return Math.max(...[...document.querySelectorAll('#heard td, #heard th')].map("
        "cell => cell.getBoundingClientRect().right))")
    assert 0 < right <= 390 and [cell.text for cell in browser.find_elements("css selector", "#heard th")] == [
        "from", "to", "genre", "probability"]


def visit(url, song, name):
    """Send a song as the page does, wait for the answer, and return its words."""
    import json
    import uuid

    def post(path, data, kind):
        request = urllib.request.Request(url + path, data, {"Content-Type": kind})
        return json.load(urllib.request.urlopen(request, timeout=300))

    form = (f"--x\r\nContent-Disposition: form-data; name=files; filename={name}\r\n\r\n".encode()
            + song.read_bytes() + b"\r\n--x--\r\n")
    [path] = post("gradio_api/upload", form, "multipart/form-data; boundary=x")
    visitor = uuid.uuid4().hex
    event = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": visitor}
    post("gradio_api/queue/join", json.dumps(event).encode(), "application/json")
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={visitor}", timeout=300) as messages:
        for line in messages:
            message = json.loads(line[len("data: "):]) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                return message["output"]["data"][0]
    raise AssertionError("the page hung up")


def test_uploads_that_arrive_at_once_are_all_answered(songs, server):
    from concurrent.futures import ThreadPoolExecutor

    url, _, _ = server
    genres = ["classical", "hiphop", "metal"] * 4
    with ThreadPoolExecutor(len(genres)) as visitors:
        words = list(visitors.map(lambda number: visit(url, songs / f"{genres[number]}.wav", f"{number}.wav"),
                                  range(len(genres))))
    for number, (genre, said) in enumerate(zip(genres, words)):
        assert f"<h2>{genre}</h2>" in said and f"of {number}.wav." in said, "each visitor hears of his own song"


def test_a_recording_is_heard(songs, server, browser):
    url, place, _ = server
    browser.get(url)
    until(browser, lambda b: b.find_elements("css selector", "#song button[aria-label='Record audio']"))[0].click()
    until(browser, lambda b: b.find_elements("css selector", "#song .record-button"))[0].click()
    time.sleep(4)
    until(browser, lambda b: b.find_elements("css selector", "#song .stop-button"))[0].click()
    until(browser, lambda b: text(b, "#words h2") == "metal")
    assert "metal" in text(browser, "#vector") and uploads(place)


def test_requests_that_are_refused(songs, server):
    """Large uploads, files of this machine, other hosts and posts of other sites; nobody else can reach the page."""
    url, _, _ = server

    def ask(path, data=None, **headers):
        try:
            answer = urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60)
            return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    head = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.wav\r\n\r\n"
    form = head + bytes(2_100_000) + b"\r\n--x--\r\n"
    assert ask("gradio_api/upload", form, **{"Content-Type": "multipart/form-data; boundary=x"})[0] == 413
    for path in ("/etc/passwd", str(songs / "classical.wav"), "../../etc/passwd"):
        assert ask(f"gradio_api/file={path}")[0] in (403, 404), path
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    small = form.replace(bytes(2_100_000), b"music")
    assert ask("gradio_api/upload", small, **kind)[0] == 200
    for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
                    {"Sec-Fetch-Site": "cross-site"}):
        assert ask("gradio_api/upload", small, **kind, **foreign)[0] == 403, foreign
        assert "Host" not in foreign or ask("", **foreign)[0] == 403
    port = url.rstrip("/").rsplit(":", 1)[1]
    listening = [line.split()[1] for name in ("/proc/net/tcp", "/proc/net/tcp6") if Path(name).exists()
                 for line in Path(name).read_text().splitlines()[1:] if line.split()[3] == "0A"]
    mine = [address for address in listening if int(address.split(":")[1], 16) == int(port)]
    assert mine == [f"0100007F:{int(port):04X}"] or not listening, "127.0.0.1 only"


def test_a_signal_ends_it_and_takes_the_uploads_away(songs, server, browser):
    url, place, process = server
    browser.get(url)
    upload(browser, songs / "metal.wav")
    until(browser, lambda b: text(b, "#words h2") == "metal")
    assert uploads(place)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not list(place.glob("genre_study_*"))
