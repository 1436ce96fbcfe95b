# make run    set everything up and execute the course; leaves runs/<time>/report.html
# make test   set everything up and run every test, the notebooks included
# make check  what takes a minute or two of that: lint, and the tests that are not marked slow
# make lab    set everything up and open the notebooks in JupyterLab
# make site   the website from the stored notebooks: build/site/html/index.html
#
# Needs Python 3.11 to 3.14 and nothing else. PYTHON=/path/to/python3 chooses one by hand.

BIN := .venv/bin
# Written last, and holds this folder's path: an interrupted set-up or a moved folder is set up anew.
STAMP := .venv/complete
ifneq ($(shell $(BIN)/python -c "print(open('$(STAMP)').read())" 2>/dev/null),$(CURDIR))
ANEW := anew
endif
# Other software's libraries (a robotics workspace, say) must not leak into the environment.
unexport PYTHONPATH
# PyTorch's threads then spin for microseconds before they sleep. Spinning for long, as is the default, takes ten times
# as long where another program wants the core; not at all, twice as long where none does.
export GOMP_SPINCOUNT ?= 5000

.PHONY: run test check lab site anew

run: $(STAMP)
	@$(BIN)/course run

test: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest -n 2 --dist loadfile tests
	$(BIN)/course site
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --nbval notebooks

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not slow" tests

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

site: $(STAMP)
	$(BIN)/course site

$(STAMP): pyproject.toml constraints.txt $(ANEW)
	@$(if $(ANEW),$(MAKE_ENVIRONMENT))
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[lab,test,site]'
	@printf %s '$(CURDIR)' > $(STAMP)

define MAKE_ENVIRONMENT
for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python) ""; do \
  "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && break; \
done; \
if [ -z "$$python" ]; then \
  echo "$(if $(PYTHON),$(PYTHON) is no Python 3.11 to 3.14,No Python 3.11 to 3.14 found): install one (https://www.python.org/downloads/)"; \
  echo "or name one: make PYTHON=/path/to/python3"; exit 1; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
  echo "$$python cannot make environments; on Debian or Ubuntu: sudo apt install python$$version-venv"; exit 1; \
fi; \
echo "Making .venv with $$("$$python" --version): a few minutes, once."; \
"$$python" -m venv --clear .venv
endef
