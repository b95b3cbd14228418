# make demo [DATA=folder] [OUT=folder] [DETECTOR=fastflow [WEIGHTS=file]]   make test [PARITY=1] [SLOW=1]   make check   make clean
# All set up their own virtual environment with pinned versions; nothing else has to be prepared but Python >= 3.11 (PYTHON=/path/to/it).
# As root on Debian, test installs Mosquitto, GStreamer and Aravis; elsewhere the tests that need them are skipped and say so.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
DEBIAN_ROOT := $(shell [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null && echo yes)
APT := apt-get install -y -qq --no-install-recommends
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: help setup demo test check lock clean
help:
	@sed -n '1,3p' Makefile | cut -c3-

setup: $(VENV)/.ready
$(VENV)/.ready: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Faultline needs Python >= 3.11; none is on the PATH. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { [ -n "$(DEBIAN_ROOT)" ] && apt-get update -qq && $(APT) python3-venv >/dev/null; } \
		|| { echo "$(PYTHON) can't make a virtual environment. Install it first: apt-get install python3-venv"; exit 2; }
	@echo "Setting up $(VENV) with pinned versions"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(UV) --editable '.[demo,dev]'
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)") \
		$(if $(DETECTOR),--detector "$(DETECTOR)") $(if $(WEIGHTS),--backbone-weights "$(WEIGHTS)")

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup mosquitto cameras $(if $(PARITY),$(VENV)/.parity) check
	SLOW=$(SLOW) PARITY=$(PARITY) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# PyTorch as an independent reference. pip, because it takes a CPU build where one is at hand; uv does not.
$(VENV)/.parity: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[parity]'
	@touch $@

.PHONY: mosquitto
mosquitto:
	@command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || [ -z "$(DEBIAN_ROOT)" ] || { apt-get update -qq && $(APT) mosquitto >/dev/null; }

# Fake network cameras: an RTSP server of GStreamer's, a GigE Vision camera of Aravis'.
CAMERAS := python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base \
	gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly gir1.2-aravis-0.8 aravis-tools
.PHONY: cameras
cameras:
	@[ -z "$(DEBIAN_ROOT)" ] || dpkg -s $(CAMERAS) >/dev/null 2>&1 || { apt-get update -qq && $(APT) $(CAMERAS) >/dev/null; }

# Pins for every Python that the agent or the server runs on; no index lines, so no host is named.
lock: setup
	$(BIN)/uv pip compile --quiet pyproject.toml --universal --python-version 3.10 --no-annotate --no-header \
		--no-emit-index-url $(addprefix --extra ,train export openvino page remote outputs sparkplug demo ray parity dev) -o constraints.txt

clean:
	rm -rf $(VENV) demo demo-[0-9]* build dist .pytest_cache .mypy_cache .ruff_cache
