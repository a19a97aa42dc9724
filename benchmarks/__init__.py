"""Measurements that the docs quote; none of them runs in the tests."""
