"""Tell it your model and your GPUs; it measures, and hands back the fastest configuration that fits."""
