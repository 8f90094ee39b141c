"""What a network learns to answer: a class, a number, several labels, a transcript."""
