__version__ = "0.1.0"

from genre_study.network.backend import prepare

prepare()  # chooses the backend when Keras is imported; until then it loads nothing and changes nothing
