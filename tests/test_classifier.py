"""GenreClassifier keeps the contract of scikit-learn's estimators."""
import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.utils import estimator_checks

from genre_study.core.names import name_key
from genre_study.model import build_network
from genre_study.predict import classifier
from genre_study.predict.classifier import GenreClassifier
from genre_study.predict.song import predict_song
from genre_study.synth.song import compose
from genre_study.synth.sound import SAMPLE_RATE, render_song

CHECKS = """check_no_attributes_set_in_init check_get_params_invariance check_set_params check_estimator_repr
check_parameters_default_constructible check_valid_tag_types
check_estimator_tags_renamed check_mixin_order check_estimator_cloneable""".split()


@pytest.mark.parametrize("check", CHECKS)
def test_checks_of_scikit_learn(check):
    """All of `check_estimator` that apply: the others fit tables of numbers, and this one takes paths to audio."""
    getattr(estimator_checks, check)("GenreClassifier", GenreClassifier())


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Four short songs of each of two genres, and a label for each."""
    folder, labels = tmp_path_factory.mktemp("songs"), []
    for genre in ("classical", "metal"):
        for number in range(4):
            labels.append(genre)
            wave = render_song(compose(genre, number, seconds=4.0))
            soundfile.write(folder / f"{genre}-{number}.wav", wave, SAMPLE_RATE)
    return sorted(folder.iterdir()), labels


def test_labels_of_any_kind_and_clones(songs):
    paths, labels = songs
    numbers = [10 if label == "metal" else 2 for label in labels]
    one = GenreClassifier(epochs=1, valid_share=0.5, batch_size=8, seed=4)
    with pytest.raises(NotFittedError):
        one.predict(paths)
    one.fit(paths, numbers)
    assert one.classes_.tolist() == [2, 10] and set(one.predict(paths)) <= {2, 10}
    assert abs(one.predict_proba(paths).sum(axis=1) - 1).max() < 1e-5
    other = clone(one)
    assert not hasattr(other, "bundle_") and other.get_params() == one.get_params()
    assert (other.fit(paths, numbers).predict_proba(paths) == one.predict_proba(paths)).all()  # the seed decides


def test_what_is_refused(songs):
    paths, labels = songs
    with pytest.raises(ValueError, match="one genre for each path"):
        GenreClassifier().fit(paths, labels[1:])
    with pytest.raises(ValueError, match="X holds float"):
        GenreClassifier().fit([0.5], ["jazz"])
    with pytest.raises(ValueError, match="1 of 2 files can't be read"):
        GenreClassifier().fit([paths[0], "missing.wav"], ["jazz", "rock"])


def stubbed(monkeypatch):
    """Let no network be trained; return what training was given: (tracks of the store, chunks) of each call."""
    seen = []

    def train(network, store, chunks, spec, progress):
        seen.append((store.tracks, chunks))
        network.genres = tuple(sorted(set(chunks["genre"])))  # as training leaves them

    monkeypatch.setattr(classifier, "train", train)
    return seen


def test_numbers_sort_as_numbers_and_answers_stay_with_them(songs):
    """2 comes before 10, and "10" before "2": the outputs of the network stand in the second order."""
    paths, labels = songs
    numbers = [10 if label == "metal" else 2 for label in labels]
    one = GenreClassifier(epochs=15, valid_share=0.25, batch_size=4, learning_rate=3e-3).fit(paths, numbers)
    assert one.bundle_.genres == ("10", "2") and one.classes_.tolist() == [2, 10]
    assert one.score(paths, numbers) > 0.6
    shares = one.predict_proba(paths[:1])[0]
    vector = predict_song(paths[0], one.bundle_).vector
    assert shares.tolist() == pytest.approx([vector["2"], vector["10"]])


def test_fit_learns_from_the_files_it_is_given_and_from_no_other(songs, monkeypatch):
    """Nor from its own validation tracks: in each fold of a cross-validation the test files are never seen."""
    seen, (paths, labels) = stubbed(monkeypatch), songs
    folds = list(StratifiedKFold(4).split(paths, labels))
    monkeypatch.setattr(GenreClassifier, "predict", lambda self, X: [labels[paths.index(path)] for path in X])
    assert cross_val_score(GenreClassifier(valid_share=0.5), paths, labels, cv=folds).tolist() == [1.0] * 4
    for (tracks, chunks), (learned, _) in zip(seen, folds, strict=True):
        assert set(tracks["path"]) == {str(paths[place]) for place in learned}
        sides = chunks.groupby("track_id")["split"].agg(set)
        assert set(chunks["track_id"]) == set(tracks["track_id"]) and all(len(side) == 1 for side in sides)
        assert set(chunks["split"]) == {"train", "valid"}


@pytest.mark.parametrize("artists", [["Nina", "nina ", "Zoe", "Zo\u00e9"] * 2, ["Nina", "NINA", None, "x"] * 2])
def test_an_artist_is_on_one_side_of_fit_however_spelled(songs, monkeypatch, artists):
    seen, (paths, labels) = stubbed(monkeypatch), songs
    for seed in range(6):
        GenreClassifier(valid_share=0.5, seed=seed).fit(paths, labels, artists=artists)
    groups = [name_key(name) or place for place, name in enumerate(artists)]
    for tracks, chunks in seen:
        side = chunks.drop_duplicates("track_id").set_index("track_id")["split"].reindex(tracks["track_id"]).tolist()
        assert {group: len({side[place] for place in range(8) if groups[place] == group}) for group in groups} == \
            dict.fromkeys(groups, 1)
    assert len({tuple(chunks["split"]) for _, chunks in seen}) > 1  # the seed decides


def test_genres_that_differ_in_spelling_only_are_refused(songs):
    with pytest.raises(ValueError, match=r"y has genres that differ in spelling only: \['Rock', 'jazz', 'rock'"):
        GenreClassifier().fit(songs[0][:3], ["Rock", "rock ", "jazz"])


def test_every_parameter_reaches_the_training(songs, monkeypatch):
    paths, labels = songs
    built, trained = [], []

    def build(name, shape, n_genres, seed):
        built.append((name, shape, n_genres, seed))
        return build_network(name, shape, n_genres, seed=seed)

    def train(network, store, chunks, spec, progress):
        network.genres = ("classical", "metal")
        trained.append((chunks, spec, progress))

    monkeypatch.setattr(classifier, "build_network", build)
    monkeypatch.setattr(classifier, "train", train)
    model = GenreClassifier(network="fourteen_layer_cnn", chunk_seconds=2.5, epochs=7, batch_size=5,
                            learning_rate=0.004, valid_share=0.25, seed=9)
    model.fit(paths, labels)
    (name, shape, n_genres, seed), (chunks, spec, progress) = built[0], trained[0]
    assert (name, shape, n_genres, seed) == ("fourteen_layer_cnn", (128, 108, 1), 2, 9) and not progress
    assert (spec.epochs, spec.batch_size, spec.learning_rate, spec.seed) == (7, 5, 0.004, 9)
    assert set(chunks.n_frames) == {108} and model.bundle_.chunk.seconds == 2.5
    sides = chunks.drop_duplicates("track_id").split.value_counts()
    assert sides.to_dict() == {"train": 6, "valid": 2}


def test_a_table_of_paths_and_artists_is_taken(songs, monkeypatch):
    """As scikit-learn cuts it into folds; its artists stay on one side."""
    paths, labels = songs
    table = pd.DataFrame({"path": paths, "artist": [f"band {place // 2}" for place in range(8)]})
    sides = []

    def train(network, store, chunks, spec, progress):
        network.genres = ("classical", "metal")
        sides.append(chunks.drop_duplicates("track_id").split.to_list())

    monkeypatch.setattr(classifier, "train", train)
    model = GenreClassifier(valid_share=0.5).fit(table, labels)
    assert all(sides[0][place] == sides[0][place + 1] for place in range(0, 8, 2)) and len(set(sides[0])) == 2
    np.testing.assert_array_equal(model.predict_proba(table), model.predict_proba(paths))
    with pytest.raises(ValueError, match="expected a column path"):
        model.predict(table[["artist"]])
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    assert len(cross_val_score(GenreClassifier(valid_share=0.5), table, labels, cv=folds)) == 2
