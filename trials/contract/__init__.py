"""The torch-free agreement between those who ask for a probe and those who run it."""
