# `make` lists the targets. Another interpreter: make test PYTHON=python3.13
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# Two files at a time: most of a test is compilation, which is done by one core.
PYTEST := .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile
CONSTRAINTS := constraints-py$(if $(filter 3.11,$(VERSION)),311,312).txt

.PHONY: help reproduce gallery test slow peer lint
help:
	@echo 'make reproduce   train a small AlexNet on handwritten digits; its errors beside those of the paper'
	@echo 'make gallery     looks inside the small networks of this repository: runs/gallery/index.html'
	@echo 'make test        the tests'
	@echo 'make slow        the tests that take longer, marked slow'
	@echo 'make peer        installs PyTorch and OpenCV, so that `make test` and `make slow` compare with them too'
	@echo 'make lint        ruff'
	@echo 'Each first installs what it needs into .venv. PYTHON=python3.12 chooses the interpreter, 3.11 or newer.'

reproduce: .venv/installed-requirements
	.venv/bin/python -m launch.alexnet --experiment=quickstart --mesh=data:1,model:2 --workdir=runs/quickstart

gallery: .venv/installed-requirements
	.venv/bin/python -m launch.gallery --output=runs/gallery

test: .venv/installed-requirements-dev
	$(PYTEST)

slow: .venv/installed-requirements-dev
	$(PYTEST) -m slow

peer: .venv/installed-requirements-peer

lint: .venv/installed-requirements-dev
	.venv/bin/python -m ruff check

.venv/installed-%: .venv/python-$(VERSION) %.txt requirements.txt $(CONSTRAINTS)
	@echo 'Installing $*.txt into .venv (a minute or two the first time) ...'
	@.venv/bin/python -m pip --disable-pip-version-check install -qq -r $*.txt -c $(CONSTRAINTS)
	@touch $@

# An environment of the same version is kept, as is what was installed into it by hand; of another, it is made anew.
.venv/python-$(VERSION):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo '$(PYTHON) is not Python 3.11 or newer: name one that is, as in make test PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $$(test -x .venv/bin/python$(VERSION) || echo --clear) .venv
	@touch $@
