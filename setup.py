"""Everything that is particular to this package stands in settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def requirements(name):
    """Return the requirements under this name, one a line."""
    return settings[name].strip().splitlines()


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=settings["keywords"].split(),
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)],
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
    ],
    packages=[*find_packages(include=["genre_study", "genre_study.*"]), "genre_study.studies"],
    package_dir={"genre_study.studies": "nbs/studies"},
    package_data={"genre_study": ["py.typed", "data/*", "data/pretrained/*"],
                  "genre_study.studies": ["*.ipynb", "grids/*.yaml"]},
    python_requires=f">={settings['min_python']}",
    install_requires=requirements("requirements"),
    extras_require={name.removesuffix("_requirements"): requirements(name) for name in settings
                    if name.endswith("_requirements")},
    entry_points={"console_scripts": settings.get("console_scripts", "").split()},
    zip_safe=False,
)
