__version__ = "0.1.0"

from genre_study.network.backend import configure

configure()  # before Keras loads; sets only what the reader has left open
