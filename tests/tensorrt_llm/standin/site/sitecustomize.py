"""Python loads this at its start where this folder is on PYTHONPATH: GPUs are there before anything asks for them."""

from standin_device import stand_in_for_cuda

stand_in_for_cuda()
