"""What everything is written in: records, artifacts, errors, text, progress. No torch, no kfp."""
