"""Fetching the released datasets: addresses, resumable transfers, and what is there already."""
