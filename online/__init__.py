"""Online PPO: trains the behaviour policies and collects the datasets. See online/README.md."""
