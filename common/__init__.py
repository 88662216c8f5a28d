"""What `offline` and `online` both stand on; knows no algorithm."""
