"""Shared parts of the Python suites: reporting, peer processes and the loop inside a peer."""
