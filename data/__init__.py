"""Contracts, snapshots, windows, public datasets, the plant simulator."""
