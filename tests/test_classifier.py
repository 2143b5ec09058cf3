"""GenreClassifier keeps the contract of scikit-learn's estimators."""
import pytest
import soundfile
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from genre_study.predict.classifier import GenreClassifier
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
