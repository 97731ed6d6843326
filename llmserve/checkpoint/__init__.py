"""Files on disk: Hugging Face checkpoints in, engine directories out."""
