#!/bin/sh
# Build csrc/tests/selftest and run it: for this machine, for 64-bit ARM under qemu (`neon`), or
# for this machine with the address and undefined-behaviour sanitizers (`sanitize`).
set -eu
cd "$(dirname "$0")/.."
kind=${1:-native}
unset MAKEFLAGS MFLAGS MAKELEVEL
run=
case $kind in
  native) set -- ;;
  sanitize) set -- -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover" ;;
  neon)
    for tool in aarch64-linux-gnu-g++ qemu-aarch64-static; do
      command -v $tool >/dev/null || {
        echo "error: $tool is missing" >&2
        echo "hint: on Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2
        exit 1
      }
    done
    run=qemu-aarch64-static
    set -- -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
      -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static
    ;;
  *) echo "usage: tools/selftest.sh [native|neon|sanitize]" >&2; exit 2 ;;
esac
build=build/selftest-$kind
cmake -S . -B $build -DDSV4_SELFTEST=ON "$@" >/dev/null
cmake --build $build --parallel "$(getconf _NPROCESSORS_ONLN)" >/dev/null
$run $build/selftest
