"""TensorRT-LLM engines: building them and serving them. Nothing here loads `tensorrt_llm` before it is needed."""
