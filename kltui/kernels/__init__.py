"""Bindings of the compiled core and of the CUDA kernels, which check arguments, and the numpy reference implementation."""
