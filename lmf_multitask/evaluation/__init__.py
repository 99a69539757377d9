"""What predictions are worth: numpy and scikit-learn, no Paddle."""
