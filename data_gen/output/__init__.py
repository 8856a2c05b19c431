"""What is written: training rows and preference pairs, the data set card, exports for other trainers."""
