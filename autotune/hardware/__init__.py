"""What the user's GPUs are: a catalogue, inventories as people write them, detection."""
