"""Tables, plots and sentences for people."""
