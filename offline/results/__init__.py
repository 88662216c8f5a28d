"""What is made of evaluated returns: statistics, tables and figures."""
