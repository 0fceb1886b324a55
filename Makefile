# make dev     serve on http://localhost:3000 with reload (PORT and HOST change that)
# make start   serve as in production: no reload, WEB_CONCURRENCY workers
# make routes  list the routes, or everything that is wrong with them
# make jobs    list what is due, running and failed, and when each schedule is next
# make quick   run the tests that are fast, under a minute: what one runs while writing
# make test    run all tests: some minutes
# make faults  kill servers and stop databases under load, on both engines: some minutes
# make clone   a clone that a team changed: its suite is green, and it takes this version by a merge; twenty minutes
# make check   lint, formatting, types
# make audit   compare the pinned versions with published advisories, and list the licences
# make pins    write constraints.txt anew with the newest versions that pyproject.toml allows

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: audit dev start routes jobs quick test clone faults check format pins clean

dev: .venv/app
	@exec $(BIN)/python -m app dev

start: .venv/app
	@exec $(BIN)/python -m app start

routes: .venv/app
	@exec $(BIN)/python -m app routes

jobs: .venv/app
	@exec $(BIN)/python -m app jobs

quick: .venv/test
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test: .venv/test
	$(BIN)/python -m pytest $(ARGS)

clone: .venv/test .venv/check
	$(BIN)/python -m pytest -s $(ARGS) tests/clone/cases.py

faults: .venv/test
	$(BIN)/python -m pytest $(ARGS) tests/faults/cases.py tests/faults/postgresql_cases.py tests/faults/answers_cases.py

check: .venv/test .venv/check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A stamp is older than the files it was made from: install again. .venv's own Python is gone or broken: start anew.
.venv/python:
	@set -e; \
	for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or later is needed and was not found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	"$$found" -m venv --clear .venv || { \
		echo "$$found cannot create a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; \
		rm -rf .venv; exit 1; \
	}
	@touch $@

.venv/app: .venv/python pyproject.toml constraints.txt
	@echo "Installing the packages into .venv ..."
	@$(INSTALL) .
	@touch $@

.venv/test: .venv/app
	@$(INSTALL) ".[test]"
	@touch $@

.venv/check: .venv/app
	@$(INSTALL) ".[check]"
	@touch $@

ifneq ($(shell .venv/bin/python -c 'import pip' 2>/dev/null && echo works),works)
.PHONY: .venv/python
endif

pins:
	rm -rf .venv/pins && python3 -m venv .venv/pins
	.venv/pins/bin/python -m pip install --quiet --disable-pip-version-check ".[test,check]"
	{ echo "# Versions that a fresh install gets; 'make pins' writes them anew."; \
	  .venv/pins/bin/python -m pip freeze --exclude route-py; } > constraints.txt
	rm -rf .venv/pins

audit: .venv/app
	@test -x .venv/audit/bin/pip-audit || { $(BIN)/python -m venv .venv/audit && \
		.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off || { \
		echo "If an advisory is listed above: raise the version in pyproject.toml and run make pins." >&2; \
		echo "Else the advisories could not be reached, from the package index: nothing was compared." >&2; \
		failed=1; }; \
	$(BIN)/python -c "$$LICENCES"; exit $${failed:-0}

define LICENCES
from importlib.metadata import distributions
for d in sorted(distributions(), key=lambda d: d.name.lower()):
    about = d.metadata
    kinds = [c.rpartition(":: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    print(f"{d.name:28} {d.version:14} {about.get('License-Expression') or ', '.join(kinds) or 'see its metadata'}")
endef
export LICENCES

clean:
	rm -rf .venv build *.egg-info
