"""push_to_hub and load_pretrained("owner/name") against a hub on this machine, which is trusted as little as a file."""
import base64
import hashlib
import http.server
import json
import threading
from urllib.parse import urlsplit

import keras
import pytest

from genre_study.predict.bundle import Bundle, load_pretrained, push_to_hub

constants = pytest.importorskip("huggingface_hub.constants")
NAME = "me/songs"


class Hub(http.server.BaseHTTPRequestHandler):
    """Speaks the hub's protocol for repositories of small files: each commit is a dict from path to bytes."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.commits:
                return self.tell({"error": "it is there", "url": f"{self.server.address}/{name}"}, 409)
            self.server.commits[name] = []
            self.server.private[name] = asked.get("visibility") == "private" or asked.get("private")
            return self.tell({"url": f"{self.server.address}/{name}"})
        if path.startswith(f"/api/models/{NAME}/preupload/"):
            return self.tell({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                        for file in json.loads(body)["files"]]})
        if path == f"/api/models/{NAME}/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines
                     if line["key"] == "file"}
            self.server.commits[NAME].append(files)
            oid = f"{len(self.server.commits[NAME]):040d}"
            address = f"{self.server.address}/{NAME}/commit/{oid}"
            return self.tell({"success": True, "commitOid": oid, "commitUrl": address})
        return self.tell({"error": "no such thing"}, 404)

    def do_GET(self):
        path, commits = urlsplit(self.path).path, self.server.commits.get(NAME, [])
        self.server.asked.append((self.command, path))
        if path == f"/api/models/{NAME}/revision/main" and commits:
            return self.tell({"id": NAME, "sha": f"{len(commits):040d}", "siblings": []})
        for oid, files in ((f"{k:040d}", files) for k, files in enumerate(commits, 1)):
            if path.startswith(f"/api/models/{NAME}/tree/{oid}"):
                return self.tell([{"type": "file", "path": name, "size": len(content), "oid": 40 * "b"}
                                  for name, content in files.items()])
            for name, content in files.items():
                if path == f"/{NAME}/resolve/{oid}/{name}":
                    tag = f'"{hashlib.sha1(content).hexdigest()}"'
                    return self.send(content, 200, {"X-Repo-Commit": oid, "ETag": tag})
        return self.send(b"", 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def tell(self, value, status=200):
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def send(self, content, status, headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": len(content)}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.commits, server.private, server.asked, server.daemon_threads = {}, {}, [], True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    for name, value in {"ENDPOINT": server.address, "HUGGINGFACE_CO_URL_TEMPLATE": template,
                        "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN_PATH": str(tmp_path / "token")}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((128, 130, 1)), keras.layers.GlobalAveragePooling2D(),
                             keras.layers.Dense(2, activation="softmax")])


def test_a_bundle_comes_back_as_it_went(hub):
    first, second = (Bundle(network(seed), ["jazz", "rock"], temperature=1.5, trained_on="noise") for seed in (0, 1))
    assert push_to_hub(NAME, first, private=True) == f"{hub.address}/{NAME}/commit/{1:040d}"
    assert hub.private[NAME] is True
    assert sorted(hub.commits[NAME][0]) == ["bundle.json", "network.keras"]
    back = load_pretrained(NAME)
    assert back.settings() == first.settings() and back.network_hash() == first.network_hash()
    push_to_hub(NAME, second)  # into the repository that is there
    assert load_pretrained(NAME).network_hash() == second.network_hash(), "the newest"
    assert load_pretrained(NAME, revision=f"{1:040d}").network_hash() == first.network_hash()
    assert len(load_pretrained().genres) == 10, "without a name, the one that comes with the package"


def test_nothing_but_the_two_files_is_asked_for(hub):
    push_to_hub(NAME, Bundle(network(), ["jazz", "rock"]))
    hub.commits[NAME][0] |= {"network.pkl": b"cos\nsystem\n", "code/model.py": b"1/0", "bundle.json.py": b"1/0"}
    load_pretrained(NAME)
    taken = {path.rpartition("/")[2] for _, path in hub.asked if "/resolve/" in path}
    assert taken == {"bundle.json", "network.keras"}


def pickled(files, folder):
    files["network.keras"] = b"\x80\x04cposix\nsystem\n."


def with_a_lambda(files, folder):
    keras.Sequential([keras.Input((128, 130, 1)), keras.layers.Lambda(lambda chunks: chunks)]).save(folder / "x.keras")
    files["network.keras"] = (folder / "x.keras").read_bytes()


def cut(files, folder):
    files["network.keras"] = files["network.keras"][:1000]


def other_genres(files, folder):
    files["bundle.json"] = files["bundle.json"].replace(b'"rock"', b'"rock", "pop"')


def no_bundle(files, folder):
    del files["bundle.json"]


@pytest.mark.parametrize(("change", "kind", "says"), [
    (pickled, ValueError, "network.keras is not a whole .keras file"),
    (with_a_lambda, ValueError, "could run code of whoever made the file"),
    (cut, ValueError, "network.keras is not a whole .keras file"),
    (other_genres, ValueError, "the network has 2 outputs for 3 genres"),
    (no_bundle, FileNotFoundError, "holds no bundle.json")])
def test_what_a_folder_may_not_hold_the_hub_may_not_either(hub, tmp_path, change, kind, says):
    push_to_hub(NAME, Bundle(network(), ["jazz", "rock"]))
    change(hub.commits[NAME][0], tmp_path)
    with pytest.raises(kind, match=says):
        load_pretrained(NAME)


def test_a_name_that_is_not_there_and_one_that_is_none(hub):
    with pytest.raises(OSError, match="404"):
        load_pretrained(NAME)
    for name in ("no name", "../../etc"):
        with pytest.raises(ValueError, match="Repo id"):
            load_pretrained(name)
