"""KServe's protocol v2 as Triton's clients speak it: health, metadata, inference with tensors, text generation.

A second face of the one server: what it computes goes through the same jobs as OpenAI's endpoints. Knows tensors and
Triton's names; of engine, queue and text it knows `serving`.
"""
