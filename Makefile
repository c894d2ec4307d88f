# The habits of a working day. `make demo` and `make test` set up all they need; `make help` lists the rest.

VENV := $(or $(ILSVRC_BENCH_VENV),.venv)
PYTHON_HERE := $(VENV)/bin/python

.PHONY: help setup demo test slurm-test lint types docs page clean-runs
.DEFAULT_GOAL := help

help:        ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup:       ## make .venv and install what is needed; does nothing the second time
	@.ci/setup

demo: setup  ## train something small and show what a result looks like
	$(PYTHON_HERE) -m benchmarks demo

test: setup  ## every test that needs no GPU and less than a minute
	OMP_NUM_THREADS=1 $(PYTHON_HERE) -m pytest -n 2 -m "not gpu and not multi_gpu and not slow and not slurm"
	OMP_NUM_THREADS=1 $(PYTHON_HERE) -m pytest -n 2 -m "slurm and not slow"

slurm-test: setup  ## only the tests that start a Slurm cluster on this machine
	OMP_NUM_THREADS=1 $(PYTHON_HERE) -m pytest -n 2 -m "slurm and not slow"

lint: setup  ## style and format; changes nothing
	$(PYTHON_HERE) -m ruff check .
	$(PYTHON_HERE) -m ruff format --check .

types: setup  ## type annotations
	$(PYTHON_HERE) -m mypy

docs: setup  ## write the tables into README.md, the cards into benchmarks/phenomena/README.md
	$(PYTHON_HERE) -m benchmarks leaderboard --write README.md
	$(PYTHON_HERE) -m benchmarks throughput --write README.md
	$(PYTHON_HERE) -m benchmarks peers --write README.md
	$(PYTHON_HERE) -m benchmarks time-to-accuracy --write README.md
	$(PYTHON_HERE) -m benchmarks scaling --write README.md
	$(PYTHON_HERE) -m benchmarks analyze --write benchmarks/phenomena/README.md

page: setup  ## write page.html: all results with tables and plots, to open from disk
	$(PYTHON_HERE) -m benchmarks leaderboard --html page.html

clean-runs:  ## delete runs/: checkpoints and logs; benchmarks/results stays
	rm -rf runs
