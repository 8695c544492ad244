# Short names for the scripts below; everything that decides anything is in them.
# PREFIX and DESTDIR say where `make install` puts the library (default /usr/local).

PREFIX ?= /usr/local
DESTDIR ?=

# Rust is usually installed for one user only, and not every shell knows the place.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help demo test soak bench build install clean

help:
	@echo "make demo     install what is missing, build, and move real bytes between two processes"
	@echo "make test     everything that can run here"
	@echo "make soak     the same with the long runs"
	@echo "make bench    measure against the machine's limit and other libraries"
	@echo "make build    the library and the programs, release profile"
	@echo "make install  header, libraries, programs, CMake and pkg-config files (PREFIX, DESTDIR)"
	@echo "make clean    remove what was built and fetched"

demo:
	@tools/demo

test:
	@tools/install-dependencies
	@tests/run

soak:
	@tools/install-dependencies --long
	@tests/run --long

bench: build
	@bench/run

build:
	cargo build --release

install:
	cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	cmake --build build
	DESTDIR=$(DESTDIR) cmake --install build

clean:
	cargo clean
	rm -rf build .cache
