"""`python -m genre_study` is the command `genre-study`."""
import sys

from genre_study.command import main

sys.exit(main())
