"""Commands of studies with flags of their own."""
