# Each target sets up .venv itself, from nothing, with uv if it is there; it is quick when .venv is there.
PYTHON ?= python3
BIN := .venv/bin
ifndef RUN
RUN := runs/reproduce-$(shell date +%Y%m%d-%H%M%S)
endif
export RUN
export PIP_DISABLE_PIP_VERSION_CHECK := 1
UV := $(shell command -v uv 2> /dev/null)
INSTALL := $(if $(UV),"$(UV)" pip install -q -p .venv,$(BIN)/pip install -q) -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help reproduce test check torture faults reports speed readme wheels clean lab

help:
	@echo "make reproduce   the study on the synthetic corpus, to $(RUN)"
	@echo "make lab         JupyterLab on the chapters, studies and tutorials"
	@echo "make test        every check and test"
	@echo "make check       what a developer wants to know at once: lint, notebooks in step, the story's tests"
	@echo "make torture     the long tests of faults and hostile input"
	@echo "make faults      hand-made faults, one at a time: which test notices each? to reports/faults/faults.csv"
	@echo "make reports     the site: reports, chapters and API, to docs/_build/html"
	@echo "make speed       the benchmark, to reports/speed"
	@echo "make readme      README.md from nbs/index.ipynb"
	@echo "make wheels      which systems have wheels of all packages, to reports/machines/wheels.csv"

.venv/base: settings.ini setup.py constraints.txt
	@command -v "$(PYTHON)" > /dev/null || \
	  { echo "genre_study needs Python 3.11 to 3.14; $(PYTHON) is not there: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("genre_study needs Python 3.11 to 3.14; \
	$(PYTHON) is Python %s: make PYTHON=/path/to/python" % sys.version.split()[0])'
	test -x $(BIN)/pip || $(if $(UV),"$(UV)" venv -q --seed -p "$(PYTHON)" .venv,"$(PYTHON)" -m venv .venv)
	$(INSTALL) wheel 'setuptools<80'
	$(INSTALL) --no-build-isolation -e '.[study]'
	@touch $@

.venv/dev: .venv/base
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[study,dev,docs,torch,dask,app]'
	@touch $@

reproduce: .venv/base
	$(BIN)/genre-study reproduce --out "$$RUN"

.venv/lab: .venv/base
	$(INSTALL) --no-build-isolation -e '.[study,lab,app,dask]'
	@touch $@

lab: .venv/lab
	$(BIN)/jupyter lab nbs

test: .venv/dev
	$(BIN)/python tests/run_all.py -q -rs -n 2 --dist worksteal

STORY := corpus chunk mel split feed evaluate rooms docs
check: .venv/dev
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(STORY:%=tests/test_%.py) tests/test_house.py tests/test_fault_list.py -k "not chapter_runs and not wheel"

torture: .venv/dev
	$(BIN)/python tests/run_all.py -q -m torture

faults: .venv/dev
	$(BIN)/python tools/faults.py

readme: .venv/dev
	$(BIN)/python tools/make_readme.py README.md

reports: .venv/dev
	rm -rf docs/_build docs/api
	$(BIN)/sphinx-build -qE -c docs . docs/_build/html
	@echo "The site: docs/_build/html/index.html"

wheels: .venv/base
	$(INSTALL) uv
	$(BIN)/python tools/check_wheels.py reports/machines/wheels.csv

# TensorFlow, to compare with, in an environment of its own; where it can't be had, the benchmark says so.
.venv-tensorflow/done: constraints.txt
	"$(PYTHON)" -m venv .venv-tensorflow
	.venv-tensorflow/bin/pip install -q -c constraints.txt tensorflow-cpu keras
	@touch $@

speed: .venv/dev
	-$(MAKE) .venv-tensorflow/done
	$(BIN)/papermill --no-log-output nbs/studies/speed.ipynb reports/speed/speed.ipynb

clean:
	rm -rf .venv .venv-tensorflow build dist *.egg-info
