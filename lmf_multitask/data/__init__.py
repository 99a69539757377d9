"""From a file with features and labels to batches of arrays. Nothing in this package needs Paddle."""
