"""Pretrained networks as ordered stages and a head."""
