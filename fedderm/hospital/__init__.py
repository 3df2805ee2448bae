"""What stands between a hospital's node and its server: policy, approval, and the log of all that leaves."""
