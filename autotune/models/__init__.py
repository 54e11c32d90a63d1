"""What the user's model is: presets, Hugging Face configurations, factories."""
