"""Filters: which target tokens count in a loss. Pure functions of tensors."""
