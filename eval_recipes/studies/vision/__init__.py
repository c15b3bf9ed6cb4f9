"""The study on images."""
