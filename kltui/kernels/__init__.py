"""Validated bindings of the compiled core and of the CUDA kernels, and the readable numpy reference implementation."""
