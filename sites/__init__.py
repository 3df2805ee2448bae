"""What a site holds: data sources, diagnoses, splits, audits and simulated clinical centres."""
