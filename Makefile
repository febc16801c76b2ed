# make demo   installs everything into .venv, splits the demo model for four ranks and asks it a question
#             MODEL=moe: the one with experts. QUESTION=...: another question
# make chat   does the same, but starts a chat on this terminal instead; /help lists what can be typed
# make test   installs everything into .venv and runs the whole test suite
# make lint   checks the style of the code
# make clean  removes what the others made

PYTHON ?= python3
VENV = .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --constraint .ci/constraints.txt
MODEL ?= 3m
QUESTION ?= What is the sliding window?

.PHONY: demo chat test lint clean

demo: $(VENV)/installed
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" MODEL="$(MODEL)" jobs/demo/run.sh "$(QUESTION)"

chat: $(VENV)/installed
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" MODEL="$(MODEL)" jobs/demo/chat.sh

test: $(VENV)/installed-for-tests
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/installed-for-tests
	$(VENV)/bin/ruff check --config .ci/ruff.toml .
	$(VENV)/bin/ruff format --check --config .ci/ruff.toml .

$(VENV)/installed: setup.cfg .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[mpi,serve,chat]'
	touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(PIP) --editable '.[mpi,test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
