"""What README and the model card say of each figure is true of the key that it links to, and every count is counted.

`test_traceable` compares a figure with its link, and `test_figures` the link's file with predictions. Here the words
around a figure are compared with what its key means, so that a link to another key fails although its value is right.
Numbers without a link, in digits or in words, have to be those that are counted here; numbers that belong to a name,
such as "Python 3.11", stand in PLAIN. Who writes a new figure or count says here what it is.
"""
import inspect
import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from test_figures import TRACKS
from test_traceable import agrees, follow, numbers_in

from genre_study.chunk import ChunkSpec
from genre_study.model import fourteen_layer_cnn
from genre_study.split import N_FOLDS

ROOT = Path(__file__).parent.parent
README, CARD = "README.md", "reports/accuracy/MODEL_CARD.md"
ENDINGS = {"artists": "_ci95_artists", "songs": "_ci95", "splits": "_ci95", "answers": "_ci95"}
SAYS = {"artists": r"(?i)intervals? (?:here )?(?:is a bootstrap that )?draws? whole artists",
        "songs": r"(?i)interval is a bootstrap that draws songs",
        "splits": r"(?i)intervals are over the splits", "answers": r"Wilson's"}
PROTOCOLS, ACCURACY, SPEED = ("reports/protocols/metrics.json#", "reports/accuracy/metrics.json#",
                              "reports/speed/metrics.json#")
HORSE = "reports/horse/metrics.json#"
QUOTED = {  # document: the key of each figure, words of its sentence or row (§ is the figure), what it draws
    README: {
        "reports/claims/metrics.json#published_accuracy": ("of the chunks are classified correctly", ""),
        "reports/published/metrics.json#as_coded.accuracy":
            ("Trained as published, though on coarser spectrograms, the network", "artists"),
        "reports/published/metrics.json#as_drawn.accuracy":
            ("§ with the loss that fits the published picture", "artists"),
        "reports/published/metrics.json#epochs": ("of the test chunks after § epochs", ""),
        "reports/reproduce/metrics.json#song.accuracy":
            ("The run classifies § of the 40 test songs correctly", "songs"),
        "reports/reproduce/range.json#n_seeds": ("With § seeds, each with AVX2", ""),
        "reports/reproduce/range.json#lowest": ("the accuracy ranged from §", ""),
        "reports/reproduce/range.json#highest": ("the accuracy ranged from to §", ""),
        PROTOCOLS + "n_train": ("as many training chunks as § tracks have", ""),
        PROTOCOLS + "rules.chunks.accuracy": ("share songs: chunks are shuffled over tracks", "splits"),
        PROTOCOLS + "rules.tracks.accuracy": ("share artists, but no song", "splits"),
        PROTOCOLS + "rules.artists.accuracy": ("| share no artist |", "splits"),
        PROTOCOLS + "matched.n_names": ("share no artist, when § more tracks have an artist's name", ""),
        PROTOCOLS + "matched.artists.accuracy": ("name than in the published index | §", "splits"),
        PROTOCOLS + "rules.artists_clean.accuracy": ("known copies and faults left out", "splits"),
        PROTOCOLS + "rules.official.accuracy":
            ("published fault-filtered split (Kereliuk, Sturm and Larsen), which", "artists"),
        PROTOCOLS + "steps.tracks_minus_artists.difference":
            ("When training and test share artists, § more of the songs", "splits"),
        PROTOCOLS + "fourteen_layers.epochs": ("The published 14-layer network, trained for § epochs", ""),
        PROTOCOLS + "fourteen_layers.rules.chunks.accuracy": ("§ of the songs correctly if songs are", "artists"),
        PROTOCOLS + "fourteen_layers.rules.tracks.accuracy": ("§ if artists but no songs are", "artists"),
        PROTOCOLS + "fourteen_layers.rules.artists.accuracy": ("§ if neither is", "artists"),
        "reports/decimation/metrics.json#tracks.fine.n_tracks": ("on § whole tracks", ""),
        "reports/decimation/metrics.json#tracks.fine_minus_coarse.difference":
            ("`quick_cnn`, classifies § fewer", "artists"),
        "reports/decimation/metrics.json#excerpts.fine.n_tracks": ("On § short excerpts", ""),
        ACCURACY + "test.accuracy": ("442 training tracks of the fault-filtered split and nothing else", "artists"),
        ACCURACY + "artist_folds.accuracy": ("folds over all 999 tracks give §", "artists"),
        PROTOCOLS + "nested.shipped.accuracy": ("§ when the additional artist names are used too", "artists"),
        PROTOCOLS + "nested.nested.accuracy":
            ("Choosing the training settings anew inside each fold changes little", "artists"),
        HORSE + "shipped.accuracy": ("The shipped network, from 639 tracks", "artists"),
        HORSE + "changes.nothing_above_4_kHz.copies.lost":
            ("that were trained on such recordings, too, lose §", "artists"),
        HORSE + "changes.nothing_above_4_kHz.plain.lost": ("networks that never heard any lose §", "artists"),
        "reports/mel999-filtered-fourteen/metrics.json#song.accuracy":
            ("The published 14-layer network, on the same split, reaches §", "artists"),
        "reports/pretraining/metrics.json#test.accuracy":
            ("A network that was first trained on other music", "artists"),
        SPEED + "amd_epyc_avx2.aims.train_fastest.reached": ("training, against the fastest peer | § | |", ""),
        SPEED + "amd_epyc_avx512f.aims.train_fastest.reached": ("training, against the fastest peer | | § |", ""),
        SPEED + "amd_epyc_avx2.aims.epoch_fastest.reached": ("an epoch, against the fastest peer | § | |", ""),
        SPEED + "amd_epyc_avx512f.aims.epoch_fastest.reached": ("an epoch, against the fastest peer | | § |", ""),
        SPEED + "amd_epyc_avx2.aims.train_jax.reached": ("training, against Keras on JAX as it comes | § | |", ""),
        SPEED + "amd_epyc_avx512f.aims.train_jax.reached": ("training, against Keras on JAX as it comes | | § |", ""),
        SPEED + "amd_epyc_avx2.aims.infer_256.reached": ("prediction, against the fastest peer | § | |", ""),
        SPEED + "amd_epyc_avx512f.aims.infer_256.reached": ("prediction, against the fastest peer | | § |", ""),
        SPEED + "amd_epyc_avx2.aims.mel_librosa.reached": ("against librosa on the whole track | § | |", ""),
        SPEED + "amd_epyc_avx512f.aims.mel_librosa.reached": ("against librosa on the whole track | | § |", ""),
        SPEED + "amd_epyc_avx2.aims.mel_study.reached": ("the published way, chunk by chunk (aim: 12) | § | |", ""),
        SPEED + "amd_epyc_avx512f.aims.mel_study.reached": ("the published way, chunk by chunk (aim: 12) | | § |", ""),
        "reports/speed/reproduce_seconds.json#total_s": ("typed in a fresh clone, took §", ""),
        "reports/speed/reproduce_seconds.json#uv_total_s": ("§ with uv, which make uses", ""),
        "reports/speed/reproduce_seconds.json#job_s": ("the study itself took §", ""),
    },
    CARD: {
        ACCURACY + "test.accuracy": ("The recipe, from the 442 training tracks", "artists"),
        HORSE + "shipped.accuracy": ("This network, from 639 tracks", "artists"),
        ACCURACY + "shipped.accuracy": ("The same recipe without copies, from 639 tracks", "artists"),
        HORSE + "changes.as_it_is.copies.accuracy": ("999 tracks with artists kept whole, with copies: §", "artists"),
        HORSE + "changes.nothing_above_4_kHz.copies.accuracy": ("same tracks with nothing above 4 kHz: §", "artists"),
        ACCURACY + "artist_folds.accuracy": ("Without copies: §", "artists"),
        HORSE + "changes.nothing_above_4_kHz.plain.accuracy": ("and with nothing above 4 kHz §", "artists"),
        ACCURACY + "audio.same_first_genre": ("were learned: the same first genre for §", "answers"),
        ACCURACY + "audio_unseen.same_first_genre": ("which had not learned them, for §", "answers"),
    },
}

UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen").split()
TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = {word: number for number, word in enumerate(UNITS)} | {word: 10 * n for n, word in enumerate(TENS, 1)}
WORDS |= {"hundred": 100, "thousand": 1000, "half": 0.5, "third": 1 / 3, "quarter": 0.25, "twice": 2}
WORD = rf"(?i:\b(?:{'|'.join(word for word in WORDS if word not in ('zero', 'one'))})s?\b)"
TOKEN = re.compile(rf"(?<![\w.,-])\d[\d,]*(?:\.\d+)?|{WORD}")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")
PLAIN = [  # numbers that are part of a name, or of no result
    "Python 3.11 to 3.14", "Two tables", "dense layer of 100 is SELU", "three sides", "on two cores",
    "batches of 256", "package in five lines", "Sturm and Larsen, 2015", "before 2002", "the nearest of the ten",
    "above 4 kHz is removed", "nothing above 4 kHz", "each chunk twice", "from 3.4 to 10.5 kHz",
    "above 3.1 kHz, or little below 0.2 kHz",
]


def prose(text):
    """The text of a document without comments, code blocks, headers of YAML, and the tree of notebooks."""
    text = re.sub(r"<!-- tree -->.*?<!-- /tree -->|<!--.*?-->|^---\n.*?^---$|^```.*?^```", "", text, flags=re.S | re.M)
    return re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)


def sentences(text):
    """Rows of tables, and sentences of all else, each on one line."""
    blocks = re.split(r"\n\s*\n|\n(?=[-|#] ?)", prose(text))
    lines = [re.sub(r"\s+", " ", block).strip() for block in blocks]
    return [part for line in lines
            for part in ([line] if line[:1] == "|" else re.split(r"(?<=[.!?])\s+(?=[A-Z\[*])", line))]


def sections(text):
    """The text under each heading, on one line."""
    return [re.sub(r"\s+", " ", part) for part in re.split(r"^#+ ", prose(text), flags=re.M)]


def complaints_about_words(root, document):
    """Yield what the words around a figure say wrongly of its key."""
    text, folder = (root / document).read_text(encoding="utf-8"), Path(document).parent
    seen = []
    for sentence in sentences(text):
        for link in LINK.finditer(sentence):
            words, target = link.groups()
            around = f"{LINK.sub('', sentence[: link.start()])}§{LINK.sub('', sentence[link.end() :])}"
            bare = re.sub(r"\s+", " ", around)
            file, _, path = target.partition("#")
            if not path or "://" in file or not file.endswith((".json", ".csv")):
                continue
            key = f"{Path(os.path.normpath(folder / file)).as_posix()}#{path}"
            means, draws = QUOTED[document].get(key, (None, ""))
            seen.append(key)
            if means is None:
                yield f"{document}: QUOTED in {Path(__file__).name} does not say what {key} is"
            elif means not in bare:
                yield f"{document}: a figure that is not of {means!r} links to {key}: {sentence}"
            if draws:
                content = json.loads((root / key.partition("#")[0]).read_text(encoding="utf-8"))
                numbers = numbers_in(words)
                low, high = follow(content, path + ENDINGS[draws])
                percent = numbers[0][2]
                if len(numbers) != 3 or not all(agrees((number, places, percent), end)
                                                for (number, places, _), end in zip(numbers[1:], (low, high))):
                    yield f"{document}: the interval of {key} is over {draws}, {low:.1%} to {high:.1%}: {sentence}"
                if not any(target in part and re.search(SAYS[draws], LINK.sub("", part)) for part in sections(text)):
                    yield f"{document}: the section of {key} does not say that its interval is over {draws}"
    missing = set(QUOTED[document]) - set(seen)
    if missing:
        yield f"{document} no longer quotes {sorted(missing)}"


def of_split(*sides):
    """Count the tracks on these sides of the fault-filtered split that can be read."""
    return sum(row["filtered_split"] in sides for row in TRACKS.values() if row["fault"] != "unreadable")


def of_artist(genre, name):
    """Count the tracks of a genre by an artist."""
    return sum(row["genre"] == genre and name in ("", row["artist"]) for row in TRACKS.values())


def counted():
    """(pattern, its numbers) for all counts; each is counted here, from tables, predictions and settings."""
    reports, bundle = ROOT / "reports", json.loads((ROOT / "genre_study/data/pretrained/bundle.json").read_text())
    runs = pd.read_parquet(reports / "protocols" / "predictions.parquet", columns=["rule", "split", "seed"])
    runs_of_the_published = runs[runs.rule == "14 layers, tracks"]
    runs = runs[runs.rule == "tracks"]
    n_seeds = len(list((reports / "accuracy").glob("predictions-[0-9]*.parquet")))
    folds = pd.read_parquet(reports / "accuracy" / "predictions-folds.parquet")
    heard = pd.read_csv(reports / "accuracy" / "audio.csv")
    synthetic = pd.read_parquet(reports / "reproduce" / "songs.parquet")
    claims = json.loads((reports / "claims" / "metrics.json").read_text())
    cost = json.loads((reports / "accuracy" / "metrics.json").read_text())["cost"]
    aims = json.loads((reports / "speed" / "metrics.json").read_text())["amd_epyc_avx2"]["aims"]
    n_layers = 1 + 2 * len(inspect.signature(fourteen_layer_cnn).parameters["filters"].default) + 3
    spec, n_chunks = ChunkSpec(), sum(1 for k in range(1000) if 1.5 * k + 3 <= 30.05)
    chunk_s, rate = bundle["chunk"]["seconds"], bundle["mel"]["sample_rate"] / bundle["mel"]["hop_length"]
    n_train, n_test, n_known = of_split("train"), of_split("test"), of_split("train", "valid")
    genres = len({row["genre"] for row in TRACKS.values()})
    return [
        (r"chunks of (\S+) seconds,", [spec.seconds]), (r"(\S+)-layer network", [n_layers]),
        (r"of the (\S+) test songs correctly; ", [(synthetic.split == "test").sum()]),
        (r"epochs on (\w+) of these splits", [runs_of_the_published.split.nunique()]),
        (r"on one core and on (\w+),", [pd.read_parquet(reports / "reproduce" / "range.parquet").cores.max()]),
        (r"and (\S+) songs are few", [(synthetic.split == "test").sum()]),
        (r"over (\w+) random splits and (\w+) seeds", [runs.split.nunique(), runs.seed.nunique()]),
        (r"about (\S+) columns a second", [round(rate)]),
        (r"\| (\S+) chunks a track; (\S+) chunks for training, (\S+) for testing \| (\S+) or (\S+) chunks a track, the "
         r"last ones short \| (\S+) a track of (\S+) s; (\S+) tracks make (\S+) \|",
         [n_chunks, 12_000, 3_200, len(range(0, 60_000, 3000)), len(range(0, 60_026, 3000)), n_chunks, 30,
          len(TRACKS), claims["n_chunks"]]),
        (r"How accurate, from (\S+) tracks", [n_train]), (r"the (\S+) training tracks", [n_train]),
        (r"of the (\S+) test songs correctly", [n_test]), (r"on the (\d+) test tracks", [n_test]),
        (r"on the same (\S+) songs", [n_test]), (r"mean of (\w+) seeds", [n_seeds]),
        (r"(\w+) folds over all (\S+) tracks", [N_FOLDS, len(folds)]), (r"from (\S+) tracks,", [n_known]),
        (r"from the (\S+) tracks of train and valid", [n_known]),
        (r"\(aim: (\S+?)\)", numbers(aims["mel_study"]["needed"])),
        (r"The (\w+) numbered chapters", [len(list((ROOT / "nbs").glob("[0-9]*.ipynb")))]),
        (r"(\S+) parameters, of which (\S+) are learned", [cost["parameters"], cost["learned"]]),
        (r"It takes (\S+) s of a song at (\S+) columns a second \((\S+) mel bands, at most (\S+) dB below",
         [chunk_s, rate, bundle["mel"]["n_mels"], bundle["floor_db"]]),
        (r"probabilities of (\w+) genres", [len(bundle["genres"])]), (r"(\w+) genres of popular", [genres]),
        (r"instead of pictures, (\S+) tracks, of which (\S+) were learned",
         [len(heard), heard.track_id.map(lambda track: TRACKS[track]["filtered_split"] in ("train", "valid")).sum()]),
        (r"In GTZAN (\S+) of (\S+) reggae clips are Bob Marley and (\S+) of (\S+) pop clips are Britney Spears",
         [of_artist("reggae", "Bob Marley"), of_artist("reggae", ""), of_artist("pop", "Britney Spears"),
          of_artist("pop", "")]),
        (r"valid, a set of (\S+) tracks", [of_split("valid")]), (r"A clip under (\S+) s is repeated", [chunk_s]),
    ]


def numbers(text):
    """All numbers of a text, in digits or in words."""
    found = (token[0].lower() for token in TOKEN.finditer(text))
    return [WORDS.get(token, WORDS.get(token.rstrip("s"))) if token[0].isalpha() else float(token.replace(",", ""))
            for token in found]


def complaints_about_counts(root, document, known):
    """Yield each number outside links that is none of the counts, or not as it was counted."""
    text = prose((root / document).read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*[^\d.,%`\n][^`\n]*`", "``", text)  # code; a number alone is no code
    text = re.sub(r"\s+", " ", LINK.sub("[]", re.sub(r"\[(\d\w*)\]\(nbs[^)]*\)", "", text)))
    text = re.sub(r"\d+% (?:interval|overlap)", "", text)
    for phrase in PLAIN:
        text = text.replace(phrase, "")
    for pattern, expected in known:
        for found in re.finditer(pattern, text):
            said = [numbers(group)[:1] for group in found.groups()]
            if not all(one and agrees((one[0], len(group.rstrip(".,;").partition(".")[2]), False), value)
                       for one, value, group in zip(said, expected, found.groups(), strict=True)):
                yield f"{document}: {found[0]!r}, but counted were {[float(value) for value in expected]}"
        text = re.sub(pattern, "", text)
    for token in TOKEN.finditer(text):
        around = text[max(0, token.start() - 40) : token.end() + 30]
        yield f"{document}: {token[0]!r} in '{around}' is no figure with a link and no count of {Path(__file__).name}"


@pytest.fixture(scope="module")
def known():
    return counted()


@pytest.mark.parametrize("document", [README, CARD])
def test_words_around_a_figure_are_true_of_its_key(document):
    wrong = list(complaints_about_words(ROOT, document))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", [README, CARD])
def test_every_count_is_counted(document, known):
    wrong = list(complaints_about_counts(ROOT, document, known))
    assert not wrong, "\n".join(wrong)
