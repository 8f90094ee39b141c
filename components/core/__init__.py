"""What every step shares; knows no problem and no pipeline."""
