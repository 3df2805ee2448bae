"""A comparison of arms: planned, run cell by cell, and told in tables and a page."""
