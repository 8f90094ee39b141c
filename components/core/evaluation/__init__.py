"""Models on the test rows: champion against challenger, drift, wrong labels."""
