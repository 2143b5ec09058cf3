# Each target sets up .venv itself, from nothing; it is quick when .venv is there.
PYTHON ?= python3.11
BIN := .venv/bin
RUN ?= runs/reproduce-$(shell date +%Y%m%d-%H%M%S)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help reproduce test torture reports speed readme clean

help:
	@echo "make reproduce   the study on the synthetic corpus, to $(RUN)"
	@echo "make test        every check and test"
	@echo "make torture     the long tests of faults and hostile input"
	@echo "make reports     the pages under reports/"
	@echo "make speed       the benchmark, to reports/speed"
	@echo "make readme      README.md from nbs/index.ipynb"

.venv/base: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt wheel 'setuptools<80'
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/base
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev,torch,dask,app]'
	@touch $@

reproduce: .venv/base
	@mkdir -p $(RUN)
	$(BIN)/papermill --no-log-output nbs/studies/reproduce.ipynb $(RUN)/reproduce.ipynb -p run_dir $(RUN)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html $(RUN)/reproduce.ipynb
	@echo "The report: $(RUN)/reproduce.html"

test: .venv/dev
	$(BIN)/python tests/run_all.py -q -rs -n 2 --dist worksteal

torture: .venv/dev
	$(BIN)/python tests/run_all.py -q -m torture

readme: .venv/dev
	$(BIN)/python tests/make_readme.py README.md

reports: .venv/dev
	$(BIN)/python -m genre_study.site.report

# TensorFlow, to compare with, in an environment of its own; where it can't be had, the benchmark says so.
.venv-tensorflow/done: constraints.txt
	$(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/pip install -q -c constraints.txt tensorflow-cpu keras
	@touch $@

speed: .venv/dev
	-$(MAKE) .venv-tensorflow/done
	$(BIN)/papermill --no-log-output nbs/studies/speed.ipynb reports/speed/speed.ipynb

clean:
	rm -rf .venv .venv-tensorflow build dist *.egg-info
