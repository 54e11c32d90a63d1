"""Where probes run: one Protocol, on this machine or on a Ray cluster."""
