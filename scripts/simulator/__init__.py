"""The scheduler and block pool at a hundred thousand requests; only the model's arithmetic is replaced, by its time."""
