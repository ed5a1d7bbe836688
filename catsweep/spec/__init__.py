"""YAML -> frozen typed specs; the only reader of settings."""
