"""Thin commands over plain functions."""
