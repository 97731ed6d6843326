"""llmserve: compile a Hugging Face checkpoint into an engine, and serve it."""

__version__ = "0.1.0"
