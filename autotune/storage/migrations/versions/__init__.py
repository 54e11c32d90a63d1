"""Each change of the schema, in order."""
