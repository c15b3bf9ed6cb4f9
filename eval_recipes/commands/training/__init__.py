"""Commands that train further on a release."""
