"""Sweeps: from configurations in `configs/` to the commands that train every setting of a grid."""
