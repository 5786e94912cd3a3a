"""What a run leaves behind; separate because it is read without torch."""
