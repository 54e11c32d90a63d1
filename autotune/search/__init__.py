"""Which configuration to probe next, and when enough has been probed."""
