"""What is measured beyond the scores: P(correct), voting at equal cost, where correct answers are lost."""
