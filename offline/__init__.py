"""Offline training and evaluation; the modules directly in here are the commands a user types."""
