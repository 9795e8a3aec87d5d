"""What the pipelines compute, as functions and statements that their callers run."""
