"""Talking to nodes: each endpoint on its own, the head by majority, logs in ranges that fit."""
