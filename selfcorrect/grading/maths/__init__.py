"""What an answer is worth: read into a tree, brought to a normal form, compared."""
