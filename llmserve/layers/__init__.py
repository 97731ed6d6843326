"""Parameters that know how to be cut, packed and applied, and the blocks made of them.

A layer is made twice from the same lines: at build it says which rows and columns of which checkpoint tensors it is
made of; at run it holds what was stored and computes. It knows nothing of files, requests or schedules.
"""
