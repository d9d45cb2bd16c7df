"""What a trained model is worth: scores by domain, a baseline to compare with, a check on its samples."""
