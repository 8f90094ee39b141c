"""Learning targets of a network: a class, a number, several labels, a transcript."""
