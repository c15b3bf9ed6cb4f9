"""The evaluation mdl: description length of SAE codes."""
