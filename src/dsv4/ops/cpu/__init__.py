"""The compiled CPU backend: C++ kernels, where this installation has them."""
