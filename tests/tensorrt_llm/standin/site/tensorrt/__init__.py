"""Stands in for NVIDIA's TensorRT: its version is all that is asked."""

__version__ = "10.14.1.48"
