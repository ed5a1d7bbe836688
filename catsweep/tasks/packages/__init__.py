"""Readers of installed packages: one file a package or kind, each a pure function of its spec and the packages' versions.

pools.py    what they share: group keys, picking by hash, the check of a language
"""
