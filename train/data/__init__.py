"""What is trained on: rows and preference pairs, read, checked and masked."""
