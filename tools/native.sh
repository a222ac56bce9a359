#!/bin/sh
# Build the C++ kernels for one Python and put them into src/, where a checkout finds them:
#   tools/native.sh .venv/bin/python
# Whatever was there before goes first: no kernels are better than those of other sources.
set -eu
cd "$(dirname "$0")/.."
python=$1
# Neither the flags of a calling make nor its jobs are meant for the build below.
unset MAKEFLAGS MFLAGS MAKELEVEL

rm -f src/dsv4/ops/cpu/_native.*.so
if ! command -v "${CXX:-c++}" >/dev/null && ! command -v g++ >/dev/null &&
   ! command -v clang++ >/dev/null; then
  echo "error: no C++ compiler" >&2
  echo "hint: install one (on Debian: g++), then run make native" >&2
  exit 1
fi
"$python" -c 'import nanobind' 2>/dev/null || "$python" -m pip install --quiet 'nanobind>=2.4'
PATH="$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH"
command -v cmake >/dev/null || "$python" -m pip install --quiet 'cmake>=3.18'

mkdir -p build
log=build/native.log
if ! { cmake -S . -B build/native "-DPython_EXECUTABLE=$python" \
         "-Dnanobind_DIR=$("$python" -m nanobind --cmake_dir)" &&
       cmake --build build/native --parallel "$(getconf _NPROCESSORS_ONLN)" &&
       cmake --install build/native --prefix src; } >$log 2>&1; then
  grep -iE -A 5 'error' $log | head -n 40 >&2
  echo "error: the C++ kernels did not build" >&2
  echo "hint: $log holds everything that was said; rm -r build/native starts afresh" >&2
  exit 1
fi
