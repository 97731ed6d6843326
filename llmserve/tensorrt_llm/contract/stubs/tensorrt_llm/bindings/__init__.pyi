"""The C++ runtime, through nanobind.

Source: cpp/tensorrt_llm/nanobind/bindings.cpp, main 1.1..1.2 [M]
"""
