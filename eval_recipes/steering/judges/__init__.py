"""Judges of steering: did the text move towards the concept?"""
