"""Graded problems, made by rule: for training documents, rewards and evaluation."""
