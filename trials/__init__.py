"""What runs inside a probe. Knows torch, DeepSpeed and transformers; nothing of jobs, databases or Ray."""
