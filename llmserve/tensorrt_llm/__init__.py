"""Engines of NVIDIA's TensorRT-LLM: built by its builder, served by its C++ Executor, behind our front and our API.

It brings its own batching, KV cache and communication, so this package is an `Engine` (requests in, token events out)
and no model runner. Nothing here imports `tensorrt_llm` before an engine of its is built or served.
"""
